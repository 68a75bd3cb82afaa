//! The processor, the system and the graphics devices, by name; how busy the latter are.

use std::path::{Path, PathBuf};

/// Graphics devices that are listed at most.
const GPUS_MAX: usize = 16;

/// The processor's name from `/proc/cpuinfo`: `model name` on x86, `Model` of the board on arm.
pub(super) fn parse_cpu(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| {
        let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(key, _)| key.trim_end() == name).map(|(_, value)| value);
        values.next().map(|value| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
    };
    field("model name").or_else(|| field("Model")).filter(|name| !name.is_empty())
}

/// The system's name and version from `/etc/os-release`.
pub(super) fn parse_os(release: &str) -> Option<String> {
    let value = |name: &str| release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let name = value("PRETTY_NAME").or_else(|| value("NAME"))?;
    let name = name.trim().trim_matches(|quote| quote == '"' || quote == '\'');
    (!name.is_empty()).then(|| name.into())
}

/// The model from `/proc/driver/nvidia/gpus/<address>/information`.
pub(super) fn parse_nvidia(information: &str) -> Option<String> {
    let model = information.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
    (!model.is_empty()).then(|| model.into())
}

/// A device of PCI that draws or computes pictures (class 03), from its files `class`, `vendor` and `device`, and
/// the driver from `uevent`, if one is bound.
pub(super) fn parse_pci(class: &str, vendor: &str, device: &str, uevent: &str) -> Option<String> {
    if !class.starts_with("0x03") {
        return None;
    }
    let (vendor, device) = (vendor.trim().strip_prefix("0x")?, device.trim().strip_prefix("0x")?);
    let maker = match vendor {
        "10de" => "NVIDIA",
        "1002" => "AMD",
        "8086" => "Intel",
        other => other,
    };
    let driver = uevent.lines().find_map(|line| line.strip_prefix("DRIVER="));
    Some(format!("{maker} {device} ({})", driver.unwrap_or("no driver")))
}

/// The processor's name.
pub(super) fn cpu(root: &Path) -> Option<String> {
    parse_cpu(&std::fs::read_to_string(root.join("proc/cpuinfo")).ok()?)
}

/// The system's name and the kernel's version.
pub(super) fn os(root: &Path) -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let release = read("etc/os-release").or_else(|| read("usr/lib/os-release"));
    let name = release.and_then(|release| parse_os(&release));
    let kernel = read("proc/sys/kernel/osrelease").map(|kernel| format!("Linux {}", kernel.trim()));
    match (name, kernel) {
        (Some(name), Some(kernel)) => Some(format!("{name}, {kernel}")),
        (name, kernel) => name.or(kernel),
    }
}

/// The graphics devices: by model where NVIDIA's driver names it, the others by number.
pub(super) fn gpus(root: &Path) -> Vec<String> {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let named = below(&root.join("proc/driver/nvidia/gpus")).into_iter();
    let named: Vec<_> = named.filter_map(|gpu| parse_nvidia(&read(gpu.join("information")))).collect();
    let numbered = below(&root.join("sys/bus/pci/devices")).into_iter().filter_map(|device| {
        let file = |name: &str| read(device.join(name));
        parse_pci(&file("class"), &file("vendor"), &file("device"), &file("uevent"))
    });
    // What its driver named is not listed twice.
    let numbered = numbered.filter(|gpu| named.is_empty() || !gpu.ends_with("(nvidia)"));
    named.iter().cloned().chain(numbered).take(GPUS_MAX).collect()
}

/// How busy the busiest graphics device is, in percent; only the driver of AMD says it in a file.
pub(super) fn gpu_busy_percent(root: &Path) -> Option<u8> {
    let cards = below(&root.join("sys/class/drm")).into_iter().map(|card| card.join("device"));
    let busy = cards.filter_map(|device| {
        let read = |file: &str| super::read(device.join(file));
        // A card that sleeps would be woken by the question.
        let sleeps = read("power/runtime_status").is_some_and(|status| status.trim() == "suspended");
        if sleeps { Some(0) } else { read("gpu_busy_percent")?.trim().parse::<u8>().ok().filter(|p| *p <= 100) }
    });
    busy.max()
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(parse_cpu(text).as_deref(), expect, "{text}");
        check(
            "processor\t: 0\nmodel\t\t: 207\nmodel name\t: Intel(R) Core(TM)  i7-8550U CPU @ 1.80GHz\n\nprocessor\t: 1\n",
            Some("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"),
        );
        check(
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
            Some("Raspberry Pi 5 Model B Rev 1.0"),
        );
        check("processor\t: 0\nCPU implementer\t: 0x41\n", None);
        check("model name\t:\n", None);
        check("model name", None);
        check("", None);
    }

    #[test]
    fn systems() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(parse_os(text).as_deref(), expect, "{text}");
        check("NAME=\"Ubuntu\"\nPRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\n", Some("Ubuntu 24.04.3 LTS"));
        check("NAME='Arch Linux'\nID=arch\n", Some("Arch Linux"));
        check("PRETTY_NAME=\n", None);
        check("ID=void", None);
        check("", None);
    }

    #[test]
    fn graphics() {
        let check = |class: &str, device: &str, uevent: &str, expect: Option<&str>| {
            assert_eq!(parse_pci(class, "0x1002\n", device, uevent).as_deref(), expect, "{class} {device}");
        };
        check("0x030000\n", "0x73bf\n", "DRIVER=amdgpu\nPCI_ID=1002:73BF\n", Some("AMD 73bf (amdgpu)"));
        check("0x030200\n", "0x2684\n", "PCI_CLASS=30200\n", Some("AMD 2684 (no driver)"));
        check("0x020000\n", "0x73bf\n", "", None);
        check("0x030000\n", "73bf\n", "", None);
        check("", "", "", None);
        let nvidia = "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 184\nGPU UUID: \t GPU-0\n";
        assert_eq!(parse_nvidia(nvidia).as_deref(), Some("NVIDIA GeForce RTX 4090"));
        assert_eq!((parse_nvidia("Model:\n"), parse_nvidia("IRQ: 1\n"), parse_nvidia("")), (None, None, None));
    }

    #[test]
    fn the_busiest_device() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = dir.path().join("sys/class/drm").join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        let check = |expect: Option<u8>| assert_eq!(gpu_busy_percent(dir.path()), expect);
        check(None);
        put("version", "drm 1.1.0\n");
        put("card0/device/vendor", "0x8086\n");
        check(None);
        put("card1/device/gpu_busy_percent", "7\n");
        check(Some(7));
        put("card2/device/gpu_busy_percent", "93\n");
        check(Some(93));
        put("card2/device/power/runtime_status", "suspended\n");
        check(Some(7));
        put("card1/device/gpu_busy_percent", "101\n");
        check(Some(0));
        put("card2/device/power/runtime_status", "active\n");
        check(Some(93));
    }

    #[test]
    fn a_device_is_listed_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        let pci = |address: &str, vendor: &str, driver: &str| {
            for (file, text) in [("class", "0x030000"), ("vendor", vendor), ("device", "0x2684"), ("uevent", driver)] {
                put(&format!("sys/bus/pci/devices/{address}/{file}"), text);
            }
        };
        assert!(gpus(dir.path()).is_empty());
        pci("0000:01:00.0", "0x10de", "DRIVER=nvidia\n");
        pci("0000:00:02.0", "0x8086", "DRIVER=i915\n");
        assert_eq!(gpus(dir.path()), ["Intel 2684 (i915)", "NVIDIA 2684 (nvidia)"]);
        put("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA GeForce RTX 4090\n");
        assert_eq!(gpus(dir.path()), ["NVIDIA GeForce RTX 4090", "Intel 2684 (i915)"]);
    }
}
