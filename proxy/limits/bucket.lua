-- Buckets: put before admit.lua and settle.lua, behind the clock (a local function now(), in milliseconds).
--
-- A bucket key holds three packed 64-bit integers: the level of requests, the level of tokens, and when they were true, in
-- ms. Levels are in 1/60,000ths, so that one millisecond refills exactly `limit` of them; ABSENT is a bucket that has no
-- limit. Every number stays a whole one below 2^53
-- (2^31 a minute is 1.3e14), and Redis writes such a number in full when a command is called with it. No key is a full bucket, so keys expire.

local UNITS = 60000
local ABSENT = -9007199254740992
-- A bucket without debt is full within a minute. It is kept a minute longer: a clock that is set back a little must not
-- turn an empty bucket into a full one.
local MARGIN, KEPT = 60000, 120000

-- Packed numbers are cheap: each argument of its own costs a script 0.7 µs, and tonumber() as much again.
local function limits_of(place)
  local rpm, tpm, parallel = struct.unpack('<i8i8i8', ARGV[1], 24 * place - 23)
  return rpm >= 0 and rpm or nil, tpm >= 0 and tpm or nil, parallel >= 0 and parallel or nil
end

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

local function save(bucket, ms)
  local life = math.max(until_full(bucket.requests, bucket.rpm), until_full(bucket.tokens, bucket.tpm)) + MARGIN
  local packed = struct.pack('<i8i8i8', bucket.requests or ABSENT, bucket.tokens or ABSENT, ms)
  redis.call('SET', bucket.key, packed, 'PX', life <= KEPT and '120000' or life)
end

local function load(bucket, ms)
  if not bucket.rpm and not bucket.tpm then return bucket end
  local saved = redis.call('GET', bucket.key)
  local requests, tokens, at = ABSENT, ABSENT, ms
  if saved then requests, tokens, at = struct.unpack('<i8i8i8', saved) end
  local elapsed = math.max(0, ms - at)
  bucket.requests = refill(requests, bucket.rpm, elapsed)
  bucket.tokens = refill(tokens, bucket.tpm, elapsed)
  -- The server's clock was set back: go on from here, or nothing would refill until it has caught up.
  if at > ms then save(bucket, ms) end
  return bucket
end
