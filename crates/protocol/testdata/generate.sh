#!/bin/bash
# Makes the TPM fixtures beside this script from a software TPM of its own, and proves on the way that the TPM accepts
# the credentials that we make in software. Needs swtpm, swtpm-tools, tpm2-tools, openssl and a Rust toolchain.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'kill "$(cat "$work/swtpm.pid" 2>/dev/null)" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

cat > localca.conf <<END
statedir = $work
signingkey = $work/signkey.pem
issuercert = $work/issuercert.pem
certserial = $work/certserial
END
printf -- '--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n' > localca.options
cat > setup.conf <<END
create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = $work/localca.conf
create_certs_tool_options = $work/localca.options
active_pcr_banks = sha256
END
mkdir tpm
swtpm_setup --tpm2 --tpmstate "$work/tpm" --config setup.conf --create-ek-cert --overwrite > setup.log 2>&1 || { cat setup.log; exit 1; }

# The TCTI wants a TCP port and the one above it; swtpm fails here if either is taken.
port=$((20000 + 2 * (RANDOM % 10000)))
swtpm socket --tpm2 --tpmstate dir="$work/tpm" --server type=tcp,port=$port,bindaddr=127.0.0.1 \
	--ctrl type=tcp,port=$((port + 1)),bindaddr=127.0.0.1 \
	--flags not-need-init,startup-clear --pid file="$work/swtpm.pid" --daemon
export TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=$port TSS2_LOG=all+none

cargo build --quiet --release --manifest-path "$here/../Cargo.toml" --example make-credential
tool=${CARGO_TARGET_DIR:-$here/../../../target}/release/examples/make-credential

flush() { tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s; }

# PolicyAuthorizeNV of the high-range templates (EK Credential Profile, B.6.5, PolicyC for SHA-384).
policy_c=d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165

# activate NAME [sha384]: the credential made for NAME.ek.der and NAME.ak.tpmt gives its secret up.
activate() {
	head -c 32 /dev/urandom > secret
	"$tool" "$1.ek.der" "$1.ak.tpmt" secret credential > hash
	[ "$(cat hash)" = "$(sha256sum < "$1.ek.der" | cut -d' ' -f1)" ]
	tpm2_startauthsession --policy-session -g "${2:-sha256}" -S session
	tpm2_policysecret -S session -c e -L policy-a > policy.log
	if [ "${2:-}" = sha384 ]; then
		xxd -r -p <<< "$policy_c" > policy-c
		tpm2_policyor -S session -l sha384:policy-a,policy-c > policy.log
	fi
	tpm2_activatecredential -c ak.ctx -C ek.ctx -i credential -o answer -P session:session > activate.log
	cmp secret answer
	echo "$1: the TPM gave the secret up"
}

restricted='fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign'

# identity NAME EK-ALGORITHM AK-ALGORITHM [sha384]: keys, a quote, and the credential proven.
identity() {
	tpm2_createek -G "$2" -c ek.ctx -f der -u "$1.ek.der"
	tpm2_createprimary -C e -g sha256 -G "$3" -a "$restricted" -c ak.ctx > ak.log
	tpm2_readpublic -c ak.ctx -o ak.tpm2b > ak.log
	tail -c +3 ak.tpm2b > "$1.ak.tpmt"
	flush
	activate "$1" "${4:-}"
	flush
	tpm2_quote -c ak.ctx -l sha256:0,4,7 -q "$(xxd -p -c 64 nonce)" -m "$1.quote" -s "$1.signature" > quote.log
	flush
}

head -c 32 /dev/urandom > nonce
identity rsa2048-p256 rsa ecc256:ecdsa-sha256:null
identity p256-rsa2048 ecc rsa2048:rsassa-sha256:null
identity p384-p256 ecc384 ecc256:ecdsa-sha256:null sha384

# The first release's client: an RSA key below the storage root, which certifies its own creation.
tpm2_createprimary -C o -c srk.ctx > srk.log
tpm2_create -C srk.ctx -G rsa2048:rsassa-sha256:null -u ak.pub -r ak.priv --creation-data creation.tpm2b \
	--creation-ticket ticket --creation-hash creation.hash \
	-a "$restricted" > create.log
flush
tpm2_load -C srk.ctx -u ak.pub -r ak.priv -c ak.ctx > load.log
flush
tpm2_certifycreation -C ak.ctx -c ak.ctx -d creation.hash -t ticket -g sha256 -s rsassa -f tss \
	-o creation.signature --attestation creation.attest > certify.log
tail -c +3 ak.pub > first-release.ak.tpmt
cp rsa2048-p256.ek.der first-release.ek.der
tpm2_createek -G rsa -c ek.ctx -u ek.pub
flush
activate first-release
flush

tpm2_nvread 0x1c00002 -o rsa2048-p256.ek.crt 2> nvread.log
openssl x509 -inform der -in rsa2048-p256.ek.crt -out ek.pem
json() { printf '"%s":"%s"' "$1" "$(base64 -w0 < "$2")"; }
tail -c +3 creation.tpm2b > creation.data
printf '{%s,"AK":{%s,"UseTCSDActivationFormat":false,%s,%s,%s}}' "$(json EK ek.pem)" "$(json Public first-release.ak.tpmt)" \
	"$(json CreateData creation.data)" "$(json CreateAttestation creation.attest)" \
	"$(json CreateSignature creation.signature)" | base64 -w0 | sed 's/^/Bearer TPM/' > first-release.authorization

openssl x509 -in issuercert.pem -outform der -out issuer.crt
openssl x509 -in swtpm-localca-rootca-cert.pem -outform der -out root.crt
install -m 644 -t "$here" nonce ./*.ek.der ./*.ak.tpmt ./*.quote ./*.signature rsa2048-p256.ek.crt issuer.crt root.crt \
	first-release.authorization
rm "$here"/creation.signature "$here"/first-release.ek.der "$here"/first-release.ak.tpmt
