-- Admit one request: compare the epochs, check every limit, and only if all of them pass take from all. One atomic step.
--
-- KEYS  the epoch keys, then for each limit its bucket and its slots
-- ARGV  1 the limits, packed · 2 the epochs expected, with spaces between ('': any)
--       3 the request's id · 4 its tokens · 5 a fresh epoch token
-- reply {verdict, kind, limit (its place, from 1), retry after ms,
--        limit, remaining, reset ms of the tightest requests bucket, the same of the tightest tokens bucket (-1: none),
--        the epochs, then for each limit the two levels it was left at}
--
-- Slots are a sorted set: request id, scored with its expiry. An expired one no longer counts, but stays as long again as
-- the reservation that lets a late settle correct the tokens, once.

local OK, STALE, LIMITED, TOO_LARGE = 0, 1, 2, 3
local REQUESTS, TOKENS, PARALLEL = 1, 2, 3
local PARALLEL_RETRY = 1000

local id, tokens, fresh = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local n = #KEYS - #ARGV[1] / 12  -- epoch keys: of the others there are two a limit
local ms = now()
local reply = {OK, 0, 0, 0, -1, -1, -1, -1, -1, -1}

local function check_epochs()
  if n == 0 then return end
  local epochs = redis.call('MGET', unpack(KEYS, 1, n))
  for i = 1, n do
    if not epochs[i] then
      epochs[i] = fresh
      redis.call('SET', KEYS[i], fresh, 'EX', EPOCH_LIFE)
    end
    reply[10 + i] = epochs[i]
  end
  if ARGV[2] ~= '' and ARGV[2] ~= table.concat(epochs, ' ') then reply[1] = STALE end
end

local function open_buckets()
  local buckets = {}
  for place = 1, (#KEYS - n) / 2 do
    local key = n + 2 * place
    local rpm, tpm, parallel = limits_of(place)
    buckets[place] = load({
      key = KEYS[key - 1], slots = KEYS[key], rpm = rpm, tpm = tpm, parallel = parallel, requests = false, tokens = false
    }, ms)
  end
  return buckets
end

local function deny(verdict, kind, place, wait)
  if reply[1] == OK or (verdict == reply[1] and wait > reply[4]) then
    reply[1], reply[2], reply[3], reply[4] = verdict, kind, place, wait
  end
end

local function check_bucket(kind, place, need, level, limit)
  if not limit or need == 0 or level >= need * UNITS then return end
  local wait = UNITS
  if limit > 0 then wait = math.ceil((need * UNITS - level) / limit) end
  deny(LIMITED, kind, place, wait)
end

local function check(buckets)
  for i, bucket in ipairs(buckets) do
    if bucket.tpm and tokens > bucket.tpm then return deny(TOO_LARGE, TOKENS, i, 0) end
  end
  for i, bucket in ipairs(buckets) do
    check_bucket(REQUESTS, i, 1, bucket.requests, bucket.rpm)
    check_bucket(TOKENS, i, tokens, bucket.tokens, bucket.tpm)
    if bucket.parallel and redis.call('ZCOUNT', bucket.slots, ms + 1, '+inf') >= bucket.parallel then
      deny(LIMITED, PARALLEL, i, PARALLEL_RETRY)
    end
  end
end

local function take(bucket)
  if bucket.rpm then bucket.requests = bucket.requests - UNITS end
  if bucket.tpm then bucket.tokens = bucket.tokens - tokens * UNITS end
  if bucket.rpm or bucket.tpm then save(bucket, ms) end
  if bucket.tpm or bucket.parallel then
    redis.call('ZREMRANGEBYSCORE', bucket.slots, '-inf', ms - SLOT_LIFE)
    redis.call('ZADD', bucket.slots, ms + SLOT_LIFE, id)
    redis.call('PEXPIRE', bucket.slots, 2 * SLOT_LIFE)
  end
end

local function describe(place, level, limit)
  if not limit then return end
  local remaining = math.max(0, math.floor(level / UNITS))
  if reply[place] == -1 or remaining < reply[place + 1] then
    reply[place], reply[place + 1], reply[place + 2] = limit, remaining, until_full(level, limit)
  end
end

check_epochs()
if reply[1] == STALE then return reply end
local buckets = open_buckets()
check(buckets)
for i, bucket in ipairs(buckets) do
  if reply[1] == OK then take(bucket) end
  describe(5, bucket.requests, bucket.rpm)
  describe(8, bucket.tokens, bucket.tpm)
  reply[9 + n + 2 * i], reply[10 + n + 2 * i] = bucket.requests or 0, bucket.tokens or 0
end
return reply
