-- Look at buckets and slots as the next request would find them, and take nothing.
--
-- KEYS  for each limit its bucket and its slots
-- ARGV  1 the limits, packed
-- reply for each limit: remaining requests, ms until they are full, the same of tokens (-1: no such limit), requests
--       under way

local ms = now()
local reply = {}

local function tell(level, limit)
  reply[#reply + 1] = limit and math.max(0, math.floor(level / UNITS)) or -1
  reply[#reply + 1] = limit and until_full(level, limit) or -1
end

for place = 1, #KEYS / 2 do
  local rpm, tpm = limits_of(place)
  local bucket = load({key = KEYS[2 * place - 1], rpm = rpm, tpm = tpm, requests = false, tokens = false}, ms)
  tell(bucket.requests, rpm)
  tell(bucket.tokens, tpm)
  reply[#reply + 1] = redis.call('ZCOUNT', KEYS[2 * place], ms + 1, '+inf')
end
return reply
