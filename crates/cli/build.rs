//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Functions whose code is the same and whose addresses nobody compares are kept once; LLD, Rust's linker on this
    // platform, folds them.
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if (target("OS"), target("ARCH"), target("ENV")) == ("linux".into(), "x86_64".into(), "gnu".into()) {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=safe");
    }
}
