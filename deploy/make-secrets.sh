#!/bin/sh
# Write the secrets that docker-compose.yml mounts, as far as they are missing: make-secrets.sh [FOLDER] [HOST]
# What is there already is kept, so that a certificate or a password of your own stays.
set -eu
folder=${1:-secrets}
host=${2:-localhost}
# Containers run under several users, and each sees only the files that are mounted into it, so the files are
# readable by all. On the host it is the folder that keeps everybody else out.
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"
[ -e .gitignore ] || echo '*' > .gitignore

write() { # name: standard input becomes the file, complete or not at all
    if [ ! -e "$1" ]; then
        cat > ".$1.new"
        chmod 444 ".$1.new"
        mv ".$1.new" "$1"
    fi
}

for name in installation_key digitalchalk_token toolzz_token database_password valkey_password; do
    openssl rand -hex 32 | write "$name"
done
echo "postgresql://coursewire:$(cat database_password)@postgresql:5432/coursewire" | write database_url
echo "redis://:$(cat valkey_password)@valkey:6379/0" | write redis_url
# The second user is for the health check alone.
printf 'user default on >%s ~* &* +@all\nuser health on nopass -@all +ping\n' "$(cat valkey_password)" | write valkey_users

# Senders refuse it: put the certificate of your authority in its place, with its chain, or let Caddy fetch one.
if [ ! -e tls_certificate ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
        -keyout .tls_key.new -out .tls_certificate.new 2> /dev/null
    chmod 444 .tls_key.new .tls_certificate.new
    mv .tls_key.new tls_key
    mv .tls_certificate.new tls_certificate
fi
