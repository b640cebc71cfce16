for it in redis-server redis-cli redis-benchmark redis-check-aof redis-check-rdb; do ln -sf /usr/bin/$it src/$it; done
set --
# The others take as long again each.
for it in type/string type/list type/incr type/hash expire multi scan pubsub bitops; do
    set -- "$@" --single unit/$it
done
if ! tclsh8.6 tests/test_helper.tcl --clients 2 "$@" > /tmp/said 2>&1; then
    cat /tmp/said
    # Some give a second to what must come within it, whatever else the host does: a unit that failed is tried once more.
    again=$(sed -n 's|^\*\*\* \[err\]: .* in tests/\(unit/.*\)\.tcl.*|--single \1|p' /tmp/said | sort -u)
    test -n "$again"
    tclsh8.6 tests/test_helper.tcl --clients 1 $again > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }
fi
cat /tmp/said
