-- Admit one request: compare the epochs, check every limit, and only if all of them pass take from all. One atomic step.
--
-- KEYS  the epoch keys, then for each limit its bucket and its slots
-- ARGV  1 life of a slot, ms · 2 life of the slots key, ms · 3 life of an epoch key, s · 4 number of epoch keys,
--       then for each epoch the value expected ('': any), then for each limit: requests, tokens, parallel (-1: unlimited),
--       then what each request has of its own: its id, its tokens, a fresh epoch token
-- reply {verdict, kind, limit (its place, from 1), retry after ms,
--        limit, remaining, reset ms of the tightest requests bucket, the same of the tightest tokens bucket (-1: none),
--        the epochs, then for each limit the two levels it was left at}
--
-- Slots are a sorted set: request id, scored with its expiry. An expired one no longer counts, but stays as long again as
-- the reservation that lets a late settle correct the tokens, once.

local OK, STALE, LIMITED, TOO_LARGE = 0, 1, 2, 3
local REQUESTS, TOKENS, PARALLEL = 1, 2, 3
local PARALLEL_RETRY = 1000

local life, n = tonumber(ARGV[1]), tonumber(ARGV[4])
local id, tokens, fresh = ARGV[#ARGV - 2], tonumber(ARGV[#ARGV - 1]), ARGV[#ARGV]
local ms = now()
local reply = {OK, 0, 0, 0, -1, -1, -1, -1, -1, -1}

local function check_epochs()
  if n == 0 then return end
  local epochs = redis.call('MGET', unpack(KEYS, 1, n))
  for i = 1, n do
    if not epochs[i] then
      epochs[i] = fresh
      redis.call('SET', KEYS[i], fresh, 'EX', ARGV[3])
    end
    local expected = ARGV[4 + i]
    if expected ~= '' and expected ~= epochs[i] then reply[1] = STALE end
    reply[10 + i] = epochs[i]
  end
end

local function open_buckets()
  local buckets, arg = {}, n + 5
  for key = n + 1, #KEYS, 2 do
    local rpm, tpm, parallel = limit_at(arg), limit_at(arg + 1), limit_at(arg + 2)
    buckets[#buckets + 1] = load({
      key = KEYS[key], slots = KEYS[key + 1], rpm = rpm, tpm = tpm, parallel = parallel, requests = false, tokens = false
    }, ms)
    arg = arg + 3
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
  local live = '(' .. whole(ms)
  for i, bucket in ipairs(buckets) do
    check_bucket(REQUESTS, i, 1, bucket.requests, bucket.rpm)
    check_bucket(TOKENS, i, tokens, bucket.tokens, bucket.tpm)
    if bucket.parallel and redis.call('ZCOUNT', bucket.slots, live, '+inf') >= bucket.parallel then
      deny(LIMITED, PARALLEL, i, PARALLEL_RETRY)
    end
  end
end

local function take(bucket, forgotten, expiry)
  if bucket.rpm then bucket.requests = bucket.requests - UNITS end
  if bucket.tpm then bucket.tokens = bucket.tokens - tokens * UNITS end
  if bucket.rpm or bucket.tpm then save(bucket, ms) end
  if bucket.tpm or bucket.parallel then
    redis.call('ZREMRANGEBYSCORE', bucket.slots, '-inf', forgotten)
    redis.call('ZADD', bucket.slots, expiry, id)
    redis.call('PEXPIRE', bucket.slots, ARGV[2])
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
local forgotten, expiry = whole(ms - life), whole(ms + life)
for i, bucket in ipairs(buckets) do
  if reply[1] == OK then take(bucket, forgotten, expiry) end
  describe(5, bucket.requests, bucket.rpm)
  describe(8, bucket.tokens, bucket.tpm)
  reply[9 + n + 2 * i], reply[10 + n + 2 * i] = bucket.requests or 0, bucket.tokens or 0
end
return reply
