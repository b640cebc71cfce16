for it in redis-server redis-cli redis-benchmark redis-check-aof redis-check-rdb; do ln -sf /usr/bin/$it src/$it; done
set --
# The others take as long again each.
for it in type/string type/list type/incr type/hash expire multi scan pubsub bitops hyperloglog; do
    set -- "$@" --single unit/$it
done
tclsh8.6 tests/test_helper.tcl --clients 2 "$@" 2>&1
