# What the scripts of tests/cli share; to be sourced from the repository's root, and finished with `end`.

passed=0 failed=0

check() { # NAME CONDITION...: runs the condition
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

same() { # EXPECTED ACTUAL
    [ "$1" = "$2" ] && return
    printf -- '--- expected\n%s\n--- got\n%s\n' "$1" "$2"
    return 1
}

end() { # the script's last line: its exit code is whether all passed
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
