-- Renew the slots of one request that is still under way. Slots that are gone (settled, or lost with the server) stay gone.
--
-- KEYS  the slots of each limit
-- ARGV  1 the request's id

local expiry = now() + SLOT_LIFE
for _, slots in ipairs(KEYS) do
  redis.call('ZADD', slots, 'XX', expiry, ARGV[1])
  redis.call('PEXPIRE', slots, 2 * SLOT_LIFE)
end
return #KEYS
