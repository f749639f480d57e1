#!/bin/sh
# Verifies an audit pack of `lockstep audit`, offline and without Lockstep: sh verify.sh [TRUSTED_ROOT]
#
# Needs sha256sum, base64, jq and openssl. TRUSTED_ROOT is Sigstore's trusted_root.json, and it and cosign are needed
# only for a statement that an identity signed. Trust no key because it is in the pack: compare what is printed.
set -eu
LC_ALL=C
export LC_ALL
trusted_root=${1:-}
case $trusted_root in '' | /*) ;; *) trusted_root=$PWD/$trusted_root ;; esac
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
refuse() {
    printf 'verify.sh: %s\n' "$1" >&2
    exit 1
}

# Each file is the one that index.json lists, and there is no other.
jq -r '.files[] | "\(.sha256[7:])  \(.path)"' index.json | sort > "$work/listed"
sha256sum -c --strict --quiet "$work/listed" || refuse "a file is not the one that index.json lists"
jq -r '.files[].path, "index.json"' index.json | sort > "$work/paths"
find . -type f -o -type l | sed 's|^\./||' | sort > "$work/present"
cmp -s "$work/paths" "$work/present" || refuse "there is a file that index.json does not list, or a link"

# The payload of a signed statement: a DSSE envelope, or a Sigstore bundle with one.
payload() {
    jq -j '(.dsseEnvelope // .).payload' "$1" | base64 -d
}

payload statements/release.json > "$work/release"
image=$(jq -r '.subject[0].digest.sha256' "$work/release")
model=$(jq -r '.subject[1].digest.lockstepTreeV1' "$work/release")
[ "$(jq -r '.image | split("@sha256:")[1]' index.json)" = "$image" ] || refuse "index.json is about another image"
[ "$(jq -r '.model[7:]' index.json)" = "$model" ] || refuse "index.json is about other weights"

# Each statement is about the image, its weights or a source of them, and whoever index.json names signed it.
jq -c '.statements[]' index.json > "$work/statements"
jq -r '.path' "$work/statements" | sort > "$work/signed"
jq -r '.files[] | select(.bound_by == "signature") | .path' index.json | sort | cmp -s - "$work/signed" ||
    refuse "index.json says that something is signed, and not by whom"
find statements -type f | sort | cmp -s - "$work/signed" || refuse "a statement has no signer in index.json"
while IFS= read -r entry; do
    field() {
        printf '%s' "$entry" | jq -r ".$1 // empty"
    }
    path=$(field path) type=$(field predicate_type) signer=$(field signer) key=$(field key) subject=$(field subject)
    payload "$path" > "$work/payload"
    [ "$(jq -r .predicateType "$work/payload")" = "$type" ] || refuse "$path: is not a statement $type"
    if [ "$type" = urn:lockstep:harvest:v1 ]; then
        # It is about a source of the data, which the parameters of the release pin.
        source=$(jq -r '.subject[0].digest.sha256' "$work/payload")
        jq -Rse --arg source "$source" 'contains($source)' record/params.yaml > /dev/null ||
            refuse "$path: is about a source that record/params.yaml does not pin"
    else
        jq -e --arg image "$image" --arg model "$model" 'any(.subject[].digest[]; . == $image or . == $model)' \
            "$work/payload" > /dev/null || refuse "$path: is about another image and other weights"
    fi
    if [ -n "$key" ]; then
        # What a DSSE signature is over: https://github.com/secure-systems-lab/dsse, protocol 1.0.2.
        printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(($(wc -c < "$work/payload")))" > "$work/message"
        cat "$work/payload" >> "$work/message"
        jq -j '(.dsseEnvelope // .).signatures[0].sig' "$path" | base64 -d > "$work/signature"
        openssl dgst -sha256 -verify "$key" -signature "$work/signature" "$work/message" > /dev/null ||
            refuse "$path: $key did not sign it"
        by="the key with SHA-256 $(sha256sum "$key" | cut -c 1-64)"
    else
        [ -n "$trusted_root" ] || refuse "$path: an identity signed it: give Sigstore's trusted_root.json"
        issuer=$(field issuer) repository=$(field repository) ref=$(field ref) by=
        printf '%s' "$entry" | jq -r '.identities[]' > "$work/identities"
        set --
        [ -z "$repository" ] || set -- --certificate-github-workflow-repository "$repository" \
            --certificate-github-workflow-ref "$ref"
        while IFS= read -r identity; do
            if cosign verify-blob-attestation --bundle "$path" --new-bundle-format --trusted-root "$trusted_root" \
                --certificate-identity "$identity" --certificate-oidc-issuer "$issuer" "$@" --type "$type" "$subject" \
                > "$work/cosign" 2>&1; then
                by="$identity of $issuer"
                break
            fi
        done < "$work/identities"
        [ -n "$by" ] || refuse "$path: $signer did not sign it: $(tail -n 1 "$work/cosign")"
    fi
    printf '%s\n' "ok  $path: $type, signed by $signer, $by"
done < "$work/statements"

# Each file that the release's statement names is the one with that digest, and no other is said to be.
jq -r '.predicate | ({"params.yaml": .materials.params, "dvc.lock": .materials.lock,
    "reports/verdict.json": .materials.verdict} + .materials.reports | to_entries[] | "\(.value[7:])  record/\(.key)"),
    "\(.sbom[7:])  bom.cdx.json", "\(.image.image[7:])  image/manifest.json"' "$work/release" | sort > "$work/named"
jq -r '.files[] | select(.bound_by == "statement") | "\(.sha256[7:])  \(.path)"' index.json | sort > "$work/bound"
sha256sum -c --strict --quiet --ignore-missing "$work/named" || refuse "the signed statement names another file"
comm -23 "$work/bound" "$work/named" | cmp -s - /dev/null || refuse "index.json binds a file that nobody signed"
if [ -e statements/verification.json ]; then
    jq -j '.predicate.verification' "$work/release" | cmp -s - statements/verification.json ||
        refuse "statements/verification.json: is not the one in the release's statement"
fi
printf '%s\n' "ok  $(($(wc -l < "$work/listed"))) files of $(jq -r '"\(.name) \(.version), sha256:"' index.json)$image"
