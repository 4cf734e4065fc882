# Sourced: cargo with the compiler of edge/toolchain.sh, and the standard library from source where
# there is no built one. CARGO_TARGET_DIR is set.
toolchain=$CARGO_TARGET_DIR/toolchain
export RUSTC=$toolchain/rustc

# cargo, for a target, with flags for std if its library is not among the packages.
cargo_for() { # target, arguments
    local target=$1 command=$2
    shift 2
    if [ -d "$toolchain/root/usr/lib/rustlib/$target" ]; then
        cargo "$command" --locked --target "$target" "$@"
    else
        RUSTC_BOOTSTRAP=1 cargo "$command" --locked --target "$target" -Zbuild-std=std,panic_abort "$@"
    fi
}

# The smallest svdo-infer: the standard library optimised for size and without backtraces; a defect
# that would panic ends the program at once, without a message or tables for unwinding; less inlining
# (kernels are inlined always); fixed addresses; segments without padding.
build_edge() { # target, more flags for the compiler
    local flags=(-Zunstable-options -Cpanic=immediate-abort -Cforce-unwind-tables=no
        -Cllvm-args=-inline-threshold=15 -Crelocation-model=static -Clink-arg=-Wl,-z,noseparate-code)
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]} ${2:-}" \
        cargo edge --quiet --target "$1" -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
}
