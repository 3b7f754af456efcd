#!/bin/sh
# Sets the deployment up, once the database has a primary: schema, users, PKI and keys, the first operator. Each step
# finds out what is there already, so it may run at every start and go on after any interruption.
set -eu
config=/etc/everbeat/everbeat.toml
pki=/var/lib/everbeat/pki
say() { printf 'init: %s\n' "$*"; }

# A new cluster has no primary at first, and then no standby that a commit could wait for. Every command here may be
# repeated: what was done is found done.
patiently() {
    attempts=0
    until "$@"; do
        attempts=$((attempts + 1))
        [ "$attempts" -lt 20 ] || { say "given up: $*"; exit 1; }
        sleep 3
    done
}

patiently everbeat migrate --config "$config"

# Keys that are the database's are kept. Otherwise all are made, or what an interrupted run began is finished; a key is
# never overwritten.
keys() {
    if [ -s "$pki/ca.pem" ] && everbeat init --config "$config" --join; then return 0; fi
    set -- --config "$config"
    for name in $(printf '%s' "$EVERBEAT_SERVER_NAMES" | tr ',' ' '); do set -- "$@" --server-name "$name"; done
    everbeat init "$@"
}
patiently keys

# The root's key is needed for the next issuing CA only: no replica sees the volume that it goes to.
if [ -s "$pki/root.key" ]; then
    install -m 0600 "$pki/root.key" /var/lib/everbeat/root-key/.root.key.new
    sync /var/lib/everbeat/root-key/.root.key.new
    mv /var/lib/everbeat/root-key/.root.key.new /var/lib/everbeat/root-key/root.key
    rm -f "$pki/root.key"
    say "moved root.key to its own volume: copy it to a safe place and remove it there"
fi

# A token of the first operator, valid for 30 days; made anew when it is older than 20.
token=/var/lib/everbeat/operator/token
if [ -z "$(find "$token" -size +0 -mtime -20 2>/dev/null)" ]; then
    umask 077
    mint() { everbeat token mint --config "$config" --subject admin --role admin --ttl-h 720 > "$token.new"; }
    patiently mint
    mv "$token.new" "$token"
    say "made a token for the operator \"admin\""
fi
say "done"
