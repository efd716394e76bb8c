-- One batch of requests under the same limits. What has ended is given back; then each that wants in takes from all limits
-- or from none. One atomic step. A batch that was lost on the way and comes after all changes nothing.
--
-- KEYS  the epoch keys, then the account of each limit
-- ARGV  1 the limits, packed · 2 the epochs expected, with spaces between ('': any) · 3 packed: the session, the batch's
--       number, of those that have ended the tokens that they leave over, those reserved for them and their number, how
--       many requests the worker had under way before, then the tokens that each request wants
-- reply packed: for each request {verdict, kind, limit (its place, from 1), retry after ms, limit, remaining and reset ms of
--       the tightest requests bucket, the same of the tightest tokens bucket (-1: none)}; then for each limit its levels.
--       If any epochs were expected, or others: {the same, or '' when they are others: nothing was taken; the epochs}

local OK, LIMITED, TOO_LARGE = 0, 2, 3
local REQUESTS, TOKENS, PARALLEL = 1, 2, 3
local PARALLEL_RETRY = 1000

local n = #KEYS - #ARGV[1] / 24  -- epoch keys
local session, batch, left_over, released, freed, under_way = struct.unpack('<i8i8i8i8i8i8', ARGV[3])
local values = redis.call('MGET', unpack(KEYS))
local ms = now()
local accounts = {}

local function read_epochs()
  for place = 1, n do
    if not values[place] then
      values[place] = string.format('%013x%03x', session, batch)
      redis.call('SET', KEYS[place], values[place], 'EX', EPOCH_LIFE)
    end
  end
  return table.concat(values, ' ', 1, n)
end

local function settle(account)
  if not account.holds then return end
  if account.took_tokens then give(account, left_over) end
  account.reserved = math.max(0, account.reserved - released)
  account.slots = math.max(0, account.slots - freed)
  account.changed = true
end

-- Verdict, kind, place and wait of what stands most in the way.
local function judge(tokens)
  for place, account in ipairs(accounts) do
    if account.tpm and tokens > account.tpm then return TOO_LARGE, TOKENS, place, 0 end
  end
  local verdict, kind, where, longest = OK, 0, 0, 0
  local function need(amount, level, limit, what, place)
    if not limit or amount == 0 or level >= amount * UNITS then return end
    local wait = limit > 0 and math.ceil((amount * UNITS - level) / limit) or UNITS
    if verdict == OK or wait > longest then verdict, kind, where, longest = LIMITED, what, place, wait end
  end
  for place, account in ipairs(accounts) do
    need(1, account.requests, account.rpm, REQUESTS, place)
    need(tokens, account.tokens, account.tpm, TOKENS, place)
    if account.parallel and account.in_use + account.slots >= account.parallel
      and (verdict == OK or PARALLEL_RETRY > longest) then
      verdict, kind, where, longest = LIMITED, PARALLEL, place, PARALLEL_RETRY
    end
  end
  return verdict, kind, where, longest
end

local function take(tokens)
  for _, account in ipairs(accounts) do
    if account.rpm then account.requests = account.requests - UNITS end
    if account.tpm then account.tokens = account.tokens - tokens * UNITS end
    if account.holds then
      account.slots, account.reserved = account.slots + 1, account.reserved + tokens
    end
    account.changed = account.changed or account.rpm or account.tpm or account.parallel
  end
end

-- Limit, remaining and reset of the bucket with the least left.
local function tightest(level, limit)
  local found, least, reset = -1, -1, -1
  for _, account in ipairs(accounts) do
    if account[limit] then
      local remaining = math.max(0, math.floor(account[level] / UNITS))
      if found == -1 or remaining < least then
        found, least, reset = account[limit], remaining, until_full(account[level], account[limit])
      end
    end
  end
  return found, least, reset
end

local epochs = read_epochs()
local stale = ARGV[2] ~= '' and ARGV[2] ~= epochs
local lets_in = not stale and #ARGV[3] > 48
for place = 1, #KEYS - n do
  local account = load(KEYS[n + place], values[n + place], place, session, ms, lets_in)
  if account.last >= batch then return redis.error_reply('LATE this batch has been seen') end
  -- Emptied, evicted, or expired: what goes on is told anew before anybody is let in beside it.
  if under_way > 0 and account.holds and not account.known then
    return redis.error_reply('FORGOTTEN what is under way is not known here')
  end
  account.last = batch
  if freed > 0 then settle(account) end
  accounts[place] = account
end
local answers = {}
if not stale then
  for at = 49, #ARGV[3], 8 do
    local tokens = struct.unpack('<i8', ARGV[3], at)
    local verdict, kind, place, wait = judge(tokens)
    if verdict == OK then take(tokens) end
    local limit, remaining, reset = tightest('requests', 'rpm')
    answers[#answers + 1] = struct.pack(
      '<i8i8i8i8i8i8i8i8i8i8', verdict, kind, place, wait, limit, remaining, reset, tightest('tokens', 'tpm'))
  end
  for _, account in ipairs(accounts) do
    answers[#answers + 1] = struct.pack('<i8i8', account.requests or 0, account.tokens or 0)
  end
end
for _, account in ipairs(accounts) do
  if account.changed then save(account, session) end
end
local packed = table.concat(answers)
if not stale and ARGV[2] ~= '' then return packed end
return {packed, unpack(values, 1, n)}
