-- wrk: a file of requests in turn (a line each: method, path, bytes of the body, headers; tabs between), and a summary as JSON.
function init(args)
  local requests, at = {}, 0
  for line in io.lines(args[1]) do
    local fields = {}
    for field in string.gmatch(line, "[^\t]+") do fields[#fields + 1] = field end
    for i = 4, #fields do
      local name, value = string.match(fields[i], "^([^:]+): (.*)$")
      wrk.headers[name] = value
    end
    local length = tonumber(fields[3])
    wrk.method, wrk.path = fields[1], fields[2]
    wrk.body = length > 0 and string.rep("x", length) or nil
    requests[#requests + 1] = wrk.format()
  end
  -- The only one wrk sends by itself, without a call for each.
  if #requests > 1 then
    request = function()
      at = at % #requests + 1
      return requests[at]
    end
  end
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    'SUMMARY {"requests": %d, "seconds": %f, "failed": %d, "p50_us": %d}\n',
    summary.requests, summary.duration / 1e6,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout, latency:percentile(50)))
end
