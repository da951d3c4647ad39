#!/bin/bash
# One authority and one certificate that scheduler, workers and client share.
#   deploy/tls/make_certificates.sh DIRECTORY
set -euo pipefail
PLACE=${1:?name a directory for the certificates}
mkdir -p "$PLACE"
cd "$PLACE"
umask 077
openssl req -x509 -newkey rsa:4096 -nodes -days 365 -subj "/CN=atlasnmf authority" -keyout ca.key -out ca.pem
openssl req -newkey rsa:4096 -nodes -subj "/CN=atlasnmf" -keyout node.key -out node.csr
openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -out node.pem
rm node.csr
