//! Battery and temperature, from `/sys/class/power_supply`, `/sys/class/thermal` and `/sys/class/hwmon`.

use super::read;
use std::path::{Path, PathBuf};

/// Sensors report what the hardware says, and some say nonsense: a dead one 0, a missing one -274 or 127.
const CELSIUS: std::ops::RangeInclusive<i64> = 1..=125;

/// A power supply: a battery or what charges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Supply {
    battery: bool,
    discharging: bool,
    online: bool,
    percent: Option<u8>,
}

/// A power supply from its files by name; `None` for what does not feed the machine itself, such as the
/// battery of a mouse.
pub(super) fn parse_supply(file: impl Fn(&str) -> Option<String>) -> Option<Supply> {
    let word = |name: &str| file(name).map(|text| text.trim().to_string());
    if word("scope").as_deref() == Some("Device") {
        return None;
    }
    let battery = match word("type")?.as_str() {
        "Battery" => true,
        "Mains" | "USB" | "Wireless" => false,
        // A UPS is a mains that says on its own when it is not.
        _ => return None,
    };
    Some(Supply {
        battery,
        discharging: word("status").as_deref() == Some("Discharging"),
        // 2 = online at a programmable voltage.
        online: !battery && word("online").is_some_and(|online| online == "1" || online == "2"),
        percent: word("capacity").and_then(|percent| percent.parse().ok()).filter(|percent| *percent <= 100),
    })
}

/// Whether the machine runs from a battery, and its charge. Some chargers are not reported and some batteries
/// say "discharging" while a weak charger helps: both must hold.
pub(super) fn battery(supplies: &[Supply]) -> (bool, Option<u8>) {
    let fed = supplies.iter().any(|supply| supply.online);
    let drawn = supplies.iter().any(|supply| supply.battery && supply.discharging);
    let charges: Vec<u32> =
        supplies.iter().filter(|supply| supply.battery).filter_map(|supply| supply.percent.map(u32::from)).collect();
    let mean = charges.iter().sum::<u32>().checked_div(charges.len() as u32);
    (drawn && !fed, mean.and_then(|mean| u8::try_from(mean).ok()))
}

/// All power supplies of the machine; `None` where the system does not list any kind of them.
pub(super) fn supplies(sys: &Path) -> Option<Vec<Supply>> {
    let entries = std::fs::read_dir(sys.join("class/power_supply")).ok()?;
    let supply = |dir: PathBuf| parse_supply(|name| read(dir.join(name)));
    Some(entries.flatten().filter_map(|entry| supply(entry.path())).collect())
}

/// Whether a thermal zone is of the processor, by its type. `acpitz` is not: it often is a constant.
pub(super) fn is_processor_zone(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    let names = ["x86_pkg_temp", "coretemp", "k10temp", "tcpu", "tcpu_pci", "b0d4", "soc-thermal", "soc_thermal"];
    // Boards with arm processors name their zones by core or by kind of core.
    let starts = ["cpu", "bigcore", "littlecore", "package-thermal"];
    names.contains(&kind.as_str()) || starts.iter().any(|start| kind.starts_with(start))
}

/// Whether a hardware monitor is of the processor, by its name.
pub(super) fn is_processor_monitor(name: &str) -> bool {
    ["coretemp", "k10temp", "k8temp", "zenpower", "cpu_thermal"].contains(&name.trim())
}

/// Degrees Celsius from thousandths of them; `None` for what no running processor has.
pub(super) fn parse_celsius(text: &str) -> Option<i32> {
    let celsius = text.trim().parse::<i64>().ok()? / 1000;
    CELSIUS.contains(&celsius).then_some(celsius as i32)
}

/// The files that hold the temperatures of the processor: its thermal zones, else its monitors.
pub(super) fn sensors(sys: &Path) -> Vec<PathBuf> {
    let zones = entries(&sys.join("class/thermal")).into_iter().filter(|zone| named(zone, "thermal_zone"));
    let zones = zones.filter(|zone| read(zone.join("type")).is_some_and(|kind| is_processor_zone(&kind)));
    let zones: Vec<_> = zones.map(|zone| zone.join("temp")).filter(|file| celsius(file).is_some()).collect();
    if !zones.is_empty() {
        return zones;
    }
    let monitors = entries(&sys.join("class/hwmon")).into_iter();
    let monitors = monitors.filter(|dir| read(dir.join("name")).is_some_and(|name| is_processor_monitor(&name)));
    let inputs = monitors.flat_map(|dir| entries(&dir)).filter(|file| named(file, "temp"));
    inputs.filter(|file| file.to_string_lossy().ends_with("_input") && celsius(file).is_some()).collect()
}

/// The highest of some sensors.
pub(super) fn hottest_c(sensors: &[PathBuf]) -> Option<i32> {
    sensors.iter().filter_map(|file| celsius(file)).max()
}

fn celsius(file: &Path) -> Option<i32> {
    parse_celsius(&read(file)?)
}

fn named(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
}

/// What a folder holds, in order: no order is promised by the system.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAINS_OFF: &str = "type=Mains online=0";
    const MAINS_ON: &str = "type=Mains online=1";
    const DISCHARGING: &str = "type=Battery scope=System status=Discharging capacity=57 present=1";
    const CHARGING: &str = "type=Battery status=Charging capacity=99";
    const FULL: &str = "type=Battery status=Full capacity=100";
    const HELD: &str = "type=Battery status=Not_charging capacity=80";
    const MOUSE: &str = "type=Battery scope=Device status=Discharging capacity=20 online=1";
    const USB_OFF: &str = "type=USB online=0 usb_type=C";
    const USB_PD: &str = "type=USB online=2 usb_type=PD";
    const UPS: &str = "type=UPS status=Discharging capacity=90";

    fn supply(fixture: &str) -> Option<Supply> {
        let find = |name: &str| {
            let value = fixture.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| format!("{}\n", value.replace('_', " ")))
        };
        parse_supply(find)
    }

    #[test]
    fn on_battery() {
        let check = |fixtures: &[&str], expect: (bool, Option<u8>)| {
            let supplies: Vec<_> = fixtures.iter().filter_map(|fixture| supply(fixture)).collect();
            assert_eq!(battery(&supplies), expect, "{fixtures:?}");
        };
        check(&[], (false, None));
        check(&[MAINS_ON], (false, None));
        check(&[MAINS_OFF, DISCHARGING], (true, Some(57)));
        check(&[MAINS_ON, DISCHARGING], (false, Some(57)));
        check(&[USB_OFF, MAINS_OFF, DISCHARGING, MOUSE], (true, Some(57)));
        check(&[MAINS_OFF, USB_PD, CHARGING], (false, Some(99)));
        check(&[MAINS_ON, FULL, HELD], (false, Some(90)));
        check(&[MAINS_OFF, DISCHARGING, HELD], (true, Some(68)));
        check(&[MOUSE], (false, None));
        check(&[UPS], (false, None));
    }

    #[test]
    fn broken_supplies() {
        let check = |fixture: &str, expect: Option<(bool, bool, Option<u8>)>| {
            let found = supply(fixture).map(|supply| (supply.discharging, supply.online, supply.percent));
            assert_eq!(found, expect, "{fixture}");
        };
        check("", None);
        check("status=Discharging", None);
        check("type=Teapot", None);
        check("type=Battery", Some((false, false, None)));
        check("type=Battery status=Discharging capacity=101", Some((true, false, None)));
        check("type=Battery status=Unknown capacity=-1", Some((false, false, None)));
        check("type=Mains online=yes", Some((false, false, None)));
    }

    #[test]
    fn degrees() {
        let check = |text: &str, expect: Option<i32>| assert_eq!(parse_celsius(text), expect, "{text}");
        check("48000\n", Some(48));
        check("99900", Some(99));
        check("0\n", None);
        check("45\n", None);
        check("-274000\n", None);
        check("127000\n", None);
        check("99999999999999999999\n", None);
        check("hot", None);
        check("", None);
    }

    #[test]
    fn sensors_of_the_processor() {
        let check = |kind: &str, expect: bool| assert_eq!(is_processor_zone(kind), expect, "{kind}");
        for kind in ["x86_pkg_temp\n", "TCPU\n", "cpu-thermal", "cpu_thermal", "cpu0-thermal", "soc-thermal"] {
            check(kind, true);
        }
        for kind in ["acpitz\n", "iwlwifi_1\n", "INT3400 Thermal\n", "gpu-thermal", "pch_cannonlake", ""] {
            check(kind, false);
        }
        assert!(is_processor_monitor("k10temp\n") && !is_processor_monitor("nvme\n") && !is_processor_monitor(""));
    }

    #[test]
    fn a_tree_of_files() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        assert_eq!(supplies(dir.path()), None);
        assert_eq!(hottest_c(&sensors(dir.path())), None);
        put("class/power_supply/BAT0/type", "Battery\n");
        put("class/power_supply/BAT0/status", "Discharging\n");
        put("class/power_supply/BAT0/capacity", "41\n");
        put("class/power_supply/AC/type", "Mains\n");
        put("class/power_supply/AC/online", "0\n");
        assert_eq!(battery(&supplies(dir.path()).expect("known")), (true, Some(41)));
        put("class/hwmon/hwmon0/name", "k10temp\n");
        put("class/hwmon/hwmon0/temp1_input", "51250\n");
        put("class/hwmon/hwmon0/temp1_max", "70000\n");
        put("class/hwmon/hwmon1/name", "nvme\n");
        put("class/hwmon/hwmon1/temp1_input", "69000\n");
        put("class/thermal/thermal_zone0/type", "acpitz\n");
        put("class/thermal/thermal_zone0/temp", "27800\n");
        assert_eq!(hottest_c(&sensors(dir.path())), Some(51));
        put("class/thermal/thermal_zone1/type", "x86_pkg_temp\n");
        put("class/thermal/thermal_zone1/temp", "63000\n");
        assert_eq!(hottest_c(&sensors(dir.path())), Some(63));
    }
}
