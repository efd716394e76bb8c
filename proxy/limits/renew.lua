-- Renew the slots of one request that is still under way. Slots that are gone (settled, or lost with the server) stay gone.
--
-- KEYS  the slots of each limit
-- ARGV  1 life of a slot, ms · 2 life of the slots key, ms · 3 the request's id

local expiry = string.format('%.0f', now() + tonumber(ARGV[1]))
for _, slots in ipairs(KEYS) do
  redis.call('ZADD', slots, 'XX', expiry, ARGV[3])
  redis.call('PEXPIRE', slots, ARGV[2])
end
return #KEYS
