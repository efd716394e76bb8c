-- An account is what is left of one scope's limits, and what each worker holds of it. Put before the other scripts, behind
-- the clock (a local function now(), in milliseconds) and a local SLOT_LIFE in milliseconds.
--
-- A key holds packed 64-bit integers: the level of requests, the level of tokens, when they were true, in ms, and under
-- which limits (-1: none); then for each session its number, when its slots expire, how many slots it holds, how many tokens
-- are reserved for them, and its last batch. A session is one connection of one worker, a batch one call of admit.lua.
--
-- Levels are in 1/60,000ths, so that one millisecond refills exactly `limit` of them; ABSENT is a bucket that has no limit.
-- Every number stays a whole one below 2^53 (2^31 a minute is 1.3e14), and Redis writes such a number in full when a command
-- is called with it. No key is a full bucket that nobody holds anything of, so keys expire.

local UNITS = 60000
local ABSENT = -9007199254740992
-- A bucket without debt is full within a minute. It is kept a minute longer: a clock that is set back a little must not
-- turn an empty bucket into a full one.
local MARGIN, KEPT = 60000, math.max(120000, 2 * SLOT_LIFE)

local function refill(level, limit, elapsed)
  if not limit then return nil end
  local full = limit * UNITS
  if level == ABSENT then return full end
  level = level + elapsed * limit
  if level > full then return full end
  return level
end

local function until_full(level, limit)
  if not limit or limit == 0 then return 0 end
  return math.ceil((limit * UNITS - level) / limit)
end

-- What is packed costs a script little: each argument of its own takes 0.7 us, and tonumber() as much again. `lets_in` is
-- whether anybody wants in: what goes on or ends was let in under limits that may be others since, and changes none.
local function load(key, value, place, session, ms, lets_in)
  local rpm, tpm, parallel = struct.unpack('<i8i8i8', ARGV[1], 24 * place - 23)
  local holds, took_tokens = tpm >= 0 or parallel >= 0, tpm >= 0
  local requests, tokens, at, rpm_then, tpm_then = ABSENT, ABSENT, ms, rpm, tpm
  if value then requests, tokens, at, rpm_then, tpm_then = struct.unpack('<i8i8i8i8i8', value) end
  if not lets_in then rpm, tpm = rpm_then, tpm_then end
  rpm, tpm, parallel = rpm >= 0 and rpm or nil, tpm >= 0 and tpm or nil, parallel >= 0 and parallel or nil
  local account = {
    key = key, rpm = rpm, tpm = tpm, parallel = parallel, holds = holds, took_tokens = took_tokens, at = ms, others = '',
    in_use = 0, known = false, slots = 0, reserved = 0, last = 0
  }
  if value then
    for start = 41, #value, 40 do
      local number, expiry, slots, reserved, last = struct.unpack('<i8i8i8i8i8', value, start)
      if number == session then
        account.known, account.slots, account.reserved, account.last = true, slots, reserved, last
      elseif expiry + SLOT_LIFE > ms then
        -- Expired slots do not count. They are kept as long again, for a worker that was away and comes back to them.
        if expiry > ms then account.in_use = account.in_use + slots end
        account.others = account.others .. string.sub(value, start, start + 39)
      end
    end
  end
  local elapsed = math.max(0, ms - at)
  account.requests = refill(requests, rpm, elapsed)
  account.tokens = refill(tokens, tpm, elapsed)
  -- The server's clock was set back: go on from here, or nothing would refill until it has caught up.
  account.changed = at > ms
  return account
end

local function session_of(session, expiry, slots, reserved, last)
  return struct.pack('<i8i8i8i8i8', session, expiry, slots, reserved, last)
end

local function save(account, session)
  local ms = account.at
  local value = struct.pack(
    '<i8i8i8i8i8', account.requests or ABSENT, account.tokens or ABSENT, ms, account.rpm or -1, account.tpm or -1
  ) .. account.others
  if account.slots > 0 or account.reserved > 0 then
    value = value .. session_of(session, ms + SLOT_LIFE, account.slots, account.reserved, account.last)
  end
  local life = math.max(until_full(account.requests, account.rpm), until_full(account.tokens, account.tpm)) + MARGIN
  redis.call('SET', account.key, value, 'PX', math.max(life, KEPT))
end

local function give(account, tokens)
  if account.tpm then account.tokens = math.min(account.tpm * UNITS, account.tokens + tokens * UNITS) end
end
