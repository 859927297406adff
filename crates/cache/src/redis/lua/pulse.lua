-- ARGV[3..]: channel, body.  Returns the mark.
-- It writes, so that it fails wherever an announcement would (no memory, no disk, no replicas, demoted):
-- a pulse vouches that what was not announced has not happened.
set('pulsed', '1')
redis.call('PUBLISH', ARGV[3], frame('P', ARGV[4]))
return mark()
