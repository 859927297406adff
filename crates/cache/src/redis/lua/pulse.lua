-- ARGV[3..]: channel, body.  Returns the mark.
redis.call('PUBLISH', ARGV[3], frame('P', ARGV[4]))
return mark()
