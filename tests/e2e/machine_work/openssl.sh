is() { test "$1" = "$2" || { echo "$3: $1, not $2"; exit 1; }; }
hex() { busybox od -An -v -tx1 | busybox tr -d ' \n'; }
# FIPS 180-2, RFC 8439 (2.4.2, its first bytes), NIST SP 800-38A (CBC and CTR of AES-128).
is "$(printf abc | openssl dgst -sha256 -r | busybox cut -c 1-64)" \
    ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad sha256
is "$(printf 'Ladies and Gentle' | openssl enc -chacha20 -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
    -iv 01000000000000000000004a00000000 | hex)" 6e2e359a2568f98041ba0728dd0d6981e9 chacha20
key=2b7e151628aed2a6abf7158809cf4f3c
text=$(printf '\153\301\276\342\056\100\237\226\351\075\176\021\163\223\027\052' | openssl enc -aes-128-cbc -nopad -K $key \
    -iv 000102030405060708090a0b0c0d0e0f | hex)
is "$text" 7649abac8119b246cee98e9b12e9197d aes-128-cbc
text=$(printf '\153\301\276\342\056\100\237\226\351\075\176\021\163\223\027\052' | openssl enc -aes-128-ctr -K $key \
    -iv f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff | hex)
is "$text" 874d6191b620e3261bef6864990db6ce aes-128-ctr
# Signatures of curves that are published; of another text they are none.
printf sample > /tmp/sample
printf simple > /tmp/simple
for it in "sha256 p256" "sha384 p384"; do
    set -- $it
    openssl pkey -pubin -inform DER -in $2.public -pubout -out /tmp/public
    openssl dgst -$1 -verify /tmp/public -signature $2.signature /tmp/sample
    ! openssl dgst -$1 -verify /tmp/public -signature $2.signature /tmp/simple
done
printf r > /tmp/r
openssl pkeyutl -sign -rawin -keyform DER -inkey ed25519.key -in /tmp/r -out /tmp/signature
busybox cmp /tmp/signature ed25519.signature
for it in sha1 sha256 sha512 sha3-256; do openssl dgst -$it -r text; done
for it in rsa ec; do
    openssl dgst -sha256 -verify $it.public -signature $it.of-host text
    openssl dgst -sha256 -sign $it.key -out $it.of-guest text
done
# One of RSA's kind has no choice.
busybox cmp rsa.of-host rsa.of-guest
openssl cms -decrypt -binary -inform DER -in gcm.of-host -inkey rsa.key -out /tmp/text
busybox cmp /tmp/text text
openssl cms -encrypt -binary -aes-256-gcm -in text -outform DER -out gcm.of-guest certificate
openssl speed -seconds $SECONDS_EACH -bytes 8192 -evp sha256 2>&1
openssl speed -seconds $SECONDS_EACH -bytes 8192 -evp aes-128-gcm 2>&1
openssl speed -seconds $SECONDS_EACH -bytes 8192 -evp chacha20-poly1305 2>&1
openssl speed -seconds $SECONDS_EACH rsa2048 ecdsap256 2>&1
