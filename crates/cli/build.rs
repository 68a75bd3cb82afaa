//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Functions whose code is the same are kept once: a tenth of the program. Rust and C++ may not rely on the addresses of
    // functions; LLD, Rust's linker on this platform, folds them.
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if (target("OS"), target("ARCH"), target("ENV")) == ("linux".into(), "x86_64".into(), "gnu".into()) {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}
