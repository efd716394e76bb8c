-- Settle one request: free its slots and replace the estimate by what was used. Once: the slot is the reservation.
--
-- KEYS  for each limit its bucket and its slots
-- ARGV  for each limit: requests, tokens (-1: unlimited), then the request's id, its tokens estimated and its tokens used
-- reply how many limits still held it

local id, given = ARGV[#ARGV - 2], (tonumber(ARGV[#ARGV - 1]) - tonumber(ARGV[#ARGV])) * UNITS
local ms = now()
local held = 0

for i = 1, #KEYS, 2 do
  if redis.call('ZREM', KEYS[i + 1], id) == 1 then
    held = held + 1
    local tpm = limit_at(i + 1)
    if tpm and given ~= 0 then
      local bucket = load({key = KEYS[i], rpm = limit_at(i), tpm = tpm, requests = false, tokens = false}, ms)
      bucket.tokens = math.min(tpm * UNITS, bucket.tokens + given)
      save(bucket, ms)
    end
  end
end
return held
