export PATH=/usr/bin:/bin:/usr/sbin
start() {
    redis-server --port 7000 --dir /tmp --appendonly yes --save 60 1 --daemonize no > /tmp/server.log 2>&1 &
    server=$!
    until redis-cli -p 7000 ping 2>/dev/null | grep -q PONG; do
        kill -0 $server || { cat /tmp/server.log; exit 1; }
        sleep 0.1
    done
}
for it in grep seq sleep cat kill; do busybox ln -sf "$(busybox which busybox)" /usr/bin/$it 2>/dev/null || :; done
start
redis-benchmark -p 7000 -n $REQUESTS -c 10 -q -t ping_inline,set,get,incr,lpush,lpop | tr '\r' '\n' | grep 'per second'
seq 1 1000 | awk '{ print "SET key-" $1 " value-" $1; print "ZADD all " $1 " " $1; print "INCRBY sum " $1 }' | redis-cli -p 7000 > /tmp/answers
test "$(grep -c OK /tmp/answers)" = 1000
redis-cli -p 7000 bgrewriteaof
# Killed without a word: what was told to it is in its log.
sleep 1.5
kill -9 $server
wait $server || :
start
keys=$(redis-cli -p 7000 zcard all)
echo "kept: $keys $(redis-cli -p 7000 get key-777) $(redis-cli -p 7000 get sum)"
redis-cli -p 7000 shutdown nosave || :
