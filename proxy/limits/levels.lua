-- Look at accounts as the next request would find them, and take nothing.
--
-- KEYS  the account of each limit
-- ARGV  1 the limits, packed
-- reply for each limit: remaining requests, ms until they are full, the same of tokens (-1: no such limit), requests
--       under way

local ms = now()
local reply = {}

local function tell(level, limit)
  reply[#reply + 1] = limit and math.max(0, math.floor(level / UNITS)) or -1
  reply[#reply + 1] = limit and until_full(level, limit) or -1
end

for place, key in ipairs(KEYS) do
  local account = load(key, redis.call('GET', key), place, -1, ms, true)
  tell(account.requests, account.rpm)
  tell(account.tokens, account.tpm)
  reply[#reply + 1] = account.in_use
end
return reply
