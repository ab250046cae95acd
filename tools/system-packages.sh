#!/usr/bin/env bash
# Installs the system packages Veritune can use, where apt and root are there; elsewhere says
# which are missing and what is then not measured.  Never fails: everything else works without.
set -u

missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing system packages: ${missing[*]}"
    if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1; then
        exit 0
    fi
fi
echo "missing system packages: ${missing[*]} (without bubblewrap no generated code is run;" \
    "without chromium the report's browser tests are skipped)"
exit 0
