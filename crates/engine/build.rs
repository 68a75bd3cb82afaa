//! Writes down what the arithmetic of this build depends on: answers are the same to the byte between builds of one class
//! only, so two that round otherwise must not be taken for alike.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    // Instruction sets that llama.cpp's build takes over from the target.
    let sets = var("CARGO_CFG_TARGET_FEATURE");
    let sets =
        sets.split(',').filter(|set| ["avx", "fma", "f16c", "neon", "sve"].iter().any(|known| set.starts_with(known)));
    let mut parts: Vec<String> = std::iter::once(var("CARGO_CFG_TARGET_ARCH")).chain(sets.map(str::to_owned)).collect();
    let backends = ["cuda", "metal", "vulkan"];
    let chosen = |name: &&&str| std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some();
    parts.extend(backends.iter().filter(chosen).map(|name| (*name).to_owned()));
    // Its own options, where somebody builds it in another way.
    let mut options: Vec<String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("GGML_"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    options.sort();
    parts.extend(options);
    println!("cargo:rustc-env=TALKOO_ENGINE_BUILD={}", parts.join(" "));
}
