-- Settle one request: free its slots and replace the estimate by what was used. Once: the slot is the reservation.
--
-- KEYS  for each limit its bucket and its slots
-- ARGV  1 the limits, packed · 2 the request's id · 3 its tokens estimated · 4 its tokens used
-- reply how many limits still held it

local id, given = ARGV[2], (tonumber(ARGV[3]) - tonumber(ARGV[4])) * UNITS
local ms = now()
local held = 0

for i = 1, #KEYS, 2 do
  if redis.call('ZREM', KEYS[i + 1], id) == 1 then
    held = held + 1
    local rpm, tpm = limits_of((i + 1) / 2)
    if tpm and given ~= 0 then
      local bucket = load({key = KEYS[i], rpm = rpm, tpm = tpm, requests = false, tokens = false}, ms)
      bucket.tokens = math.min(tpm * UNITS, bucket.tokens + given)
      save(bucket, ms)
    end
  end
end
return held
