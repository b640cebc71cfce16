export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
# The image is a system whose packages are all there and whole.
test -z "$(dpkg --audit)"
apt-get -qq check
echo "deb [trusted=yes] file:$PWD/repository ./" > /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
apt-get -qq -o APT::Sandbox::User=root update
apt-get -y -o APT::Sandbox::User=root install ./greeting.deb
test "$(dpkg-query -W -f '${db:Status-Abbrev}' greeting-data)" = 'ii '
greeting
cat /var/lib/greeting
sed -n 's/^\(greeter\):.*/\1/p' /etc/passwd
test -z "$(dpkg --verify greeting greeting-data libc6 dpkg base-files)" && echo whole
apt-get -qq -y purge greeting greeting-data > /dev/null
test ! -e /usr/bin/greeting && test ! -e /etc/greeting && echo removed
