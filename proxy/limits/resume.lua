-- A worker's new session takes over one account from the session before, whose connection was lost with calls under way.
-- The worker knows what it holds; the account knows what was taken: the difference is given back.
--
-- KEYS  the account
-- ARGV  1 its limit, packed · 2 packed: the new session, the one before and the number of its last call, the slots and
--       reserved tokens that the worker holds, then for each call that was lost, or could not be made, its number and the
--       tokens that were used by those that ended in it
-- reply 1

local session, before, last, slots, reserved = struct.unpack('<i8i8i8i8i8', ARGV[2])
local ms = now()
local value = redis.call('GET', KEYS[1])
local old = load(KEYS[1], value, 1, before, ms, false)
local account = load(KEYS[1], value, 1, session, ms, false)  -- of an attempt that was lost too

local owed = old.reserved + account.reserved - reserved
for at = 41, #ARGV[2], 16 do
  local batch, used = struct.unpack('<i8i8', ARGV[2], at)
  if old.known and batch > old.last then owed = owed - used end
end
if account.tpm then account.tokens = math.min(account.tpm * UNITS, account.tokens + owed * UNITS) end
account.slots, account.reserved = slots, reserved

-- What is left of the session before is how far it has been told: none of its batches may come any more, and if this one's
-- reply is lost too, the same is told again and counts no more.
local others = {}
for start = 1, #account.others, 40 do
  local entry = string.sub(account.others, start, start + 39)
  if struct.unpack('<i8', entry) ~= before then others[#others + 1] = entry end
end
others[#others + 1] = session_of(before, ms + SLOT_LIFE, 0, 0, last)
account.others = table.concat(others)
save(account, session)
return 1
