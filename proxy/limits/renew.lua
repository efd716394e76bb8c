-- Renew the slots that a session holds of one account. Slots that are gone (settled, or lost with the server) stay gone.
--
-- KEYS  the account
-- ARGV  1 its limit, packed · 2 the session, packed
-- reply how many; 0 to a session that holds some: they are gone

local session = struct.unpack('<i8', ARGV[2])
local account = load(KEYS[1], redis.call('GET', KEYS[1]), 1, session, now(), false)
if account.slots > 0 then save(account, session) end
return account.slots
