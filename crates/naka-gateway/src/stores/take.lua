-- One question to an account: what naka::rate_limit::shared::take does, in the same order.
-- KEYS: the account, and since when everything is known. ARGV: whose run this is, a check of the secret that keys
-- are hashed with, what is wanted, the least of it, what is owed, what is given back; and for each window its period
-- in nanoseconds, count, burst, percent, and the most at once.
local EPSILON, MAX_KNOWN, MOST = 1e-6, 8, 9007199254740991
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local wanted, least, owed, back = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not (wanted and least and owed and back) or least < 1 or least > wanted or #ARGV < 11 or #ARGV > 26 or #ARGV % 5 ~= 1 then
  return redis.error_reply('QUESTION this makes no sense')
end

local windows = {}
for place = 7, #ARGV, 5 do
  local per, count, burst = (tonumber(ARGV[place]) or 0) / 1000, tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2])
  local percent, most = tonumber(ARGV[place + 3]), tonumber(ARGV[place + 4])
  if not (per and count and burst and percent and most) or math.min(per, count, burst, percent, most) <= 0 then
    return redis.error_reply('QUESTION this makes no sense')
  end
  windows[#windows + 1] = { per = per, count = count, burst = burst, percent = percent, most = most }
end

local mark, epoch, run, check = redis.call('GET', KEYS[2])
if mark then
  epoch, run, check = string.match(mark, '^(%d+) (%S+) (%S+)$')
end
if check and check ~= ARGV[2] then
  return redis.error_reply('SECRET another gateway hashes its keys with another secret')
end
-- Whoever was started anew may have been started from what was known long ago.
if not epoch or run ~= ARGV[1] or tonumber(epoch) > now then
  epoch = string.format('%.0f', now)
  redis.call('SET', KEYS[2], epoch .. ' ' .. ARGV[1] .. ' ' .. ARGV[2])
end
local age = now - tonumber(epoch)

local known, at = {}, 0
local account = redis.call('GET', KEYS[1])
if account then
  local words = {}
  for word in string.gmatch(account, '%S+') do
    words[#words + 1] = word
  end
  at = tonumber(words[1])
  for place = 2, #words, 4 do
    known[#known + 1] = {
      per = tonumber(words[place]),
      ahead = tonumber(words[place + 1]),
      count = tonumber(words[place + 2]),
      burst = tonumber(words[place + 3]),
    }
  end
end
local gone = math.max(now - at, 0)
local others = {}
for _, it in ipairs(known) do
  it.ahead = math.max(it.ahead - gone, 0)
  for _, window in ipairs(windows) do
    if it.per == window.per and it.count == window.count and it.burst == window.burst then
      it.is_asked = true
      window.known = window.known or it
    end
  end
  if not it.is_asked then
    others[#others + 1] = it
  end
end

-- The requests that are spent in a window that is not asked for: of this period, or of any.
local function consumed(per)
  local alike, any
  for _, it in ipairs(others) do
    local spent = it.ahead * it.count / it.per
    any = math.max(any or 0, spent)
    if it.per == per then
      alike = math.max(alike or spent, spent)
    end
  end
  return alike or any or 0
end

local free, missing, is_enough, is_young = math.huge, 0, true, false
for _, window in ipairs(windows) do
  local interval = window.per * 100 / (window.count * window.percent)
  local full = window.most * interval
  local ahead
  if window.known then
    ahead = window.known.ahead
  else
    ahead = math.min(consumed(window.per) * window.per / window.count, full)
  end
  local lost = full - age
  is_young = is_young or lost > 0
  ahead = math.max(ahead - back * interval, 0)
  ahead = math.max(ahead, math.min(ahead + owed * interval, 2 * full), lost)
  free = math.min(free, math.floor((full - ahead) / interval + EPSILON))
  missing = math.max(missing, ahead + least * interval - full)
  is_enough = is_enough and window.most >= least
  window.ahead, window.interval, window.full = ahead, interval, full
end

local granted = 0
if is_enough and free >= least then
  granted = math.min(wanted, free)
end
local said = { granted, is_enough and math.min(math.ceil(missing), MOST) or -1, is_young and 1 or 0, now, tonumber(epoch) }
local words, longest = { string.format('%.0f', now) }, 0
local function write(it, ahead)
  longest = math.max(longest, ahead)
  for _, number in ipairs({ it.per, ahead, it.count, it.burst }) do
    words[#words + 1] = string.format('%.17g', number)
  end
end
for _, window in ipairs(windows) do
  local ahead = window.ahead + granted * window.interval
  local left = math.max(math.floor((window.full - ahead) / window.interval + EPSILON), 0)
  said[#said + 1] = math.min(left, MOST)
  said[#said + 1] = math.min(math.ceil(ahead), MOST)
  write(window, ahead)
end

-- A clock that went back would leave what is spent spent for as long.
if granted > 0 or owed > 0 or back > 0 or at > now then
  local written, percent = #windows, windows[1].percent
  for _, it in ipairs(others) do
    if it.ahead > 0 and written < MAX_KNOWN then
      local interval = it.per / it.count
      local charged = math.min(it.ahead + (granted + owed) * interval * 100 / percent, 2 * it.burst * interval)
      write(it, math.max(it.ahead, charged))
      written = written + 1
    end
  end
  local lasts = math.min(math.ceil(longest / 1000) + 1, 1099511627776)
  redis.call('SET', KEYS[1], table.concat(words, ' '), 'PX', string.format('%.0f', lasts))
end
return said
