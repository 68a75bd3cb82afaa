//! Memory, from `/proc/meminfo`, `/proc/<pid>/status` and the limits of control groups (version 2).
//!
//! Limits of version 1 are not looked at: what they hold back only shows when an allocation fails.

use super::read;
use std::path::{Path, PathBuf};

/// A field of `/proc/meminfo` or `/proc/<pid>/status` that is in kB (2^10 bytes), in units of 2^20 bytes.
pub(super) fn parse_field_mb(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kb: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kb >> 10)
}

/// The group of a process below the mount of version 2, from `/proc/<pid>/cgroup`.
pub(super) fn parse_group(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A group outside of what this process may see.
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

/// The limit in `memory.max` in bytes; `None` where it says `max`.
pub(super) fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Bytes that a group may still take. What it holds of files that were not used lately goes back when asked for.
pub(super) fn headroom(limit: u64, current: &str, stat: &str) -> Option<u64> {
    let current: u64 = current.trim().parse().ok()?;
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")).and_then(|n| n.trim().parse().ok());
    Some(limit.saturating_sub(current.saturating_sub(cached.unwrap_or(0))))
}

/// Memory that can be had, in units of 2^20 bytes.
pub(super) fn free_mb(root: &Path) -> Option<u64> {
    let free = parse_field_mb(&read(root.join("proc/meminfo"))?, "MemAvailable")?;
    let groups = limited(root).into_iter().filter_map(|(group, limit)| {
        headroom(limit, &read(group.join("memory.current"))?, &read(group.join("memory.stat")).unwrap_or_default())
    });
    Some(groups.map(|bytes| bytes >> 20).fold(free, u64::min))
}

/// Memory of the machine or the least limit on this process, in units of 2^20 bytes.
pub(super) fn total_mb(root: &Path) -> Option<u64> {
    let total = parse_field_mb(&read(root.join("proc/meminfo"))?, "MemTotal")?;
    Some(limited(root).into_iter().map(|(_, limit)| limit >> 20).fold(total, u64::min))
}

/// Memory of this process and some others that is in RAM, in units of 2^20 bytes. What they share counts once each.
pub(super) fn own_mb(root: &Path, children: &[u32]) -> Option<u64> {
    let resident = |pid: &str| parse_field_mb(&read(root.join("proc").join(pid).join("status"))?, "VmRSS");
    let below: u64 = children.iter().filter_map(|pid| resident(&pid.to_string())).sum();
    Some(resident("self")?.saturating_add(below))
}

/// The groups above this process that have a limit, and the limit in bytes.
fn limited(root: &Path) -> Vec<(PathBuf, u64)> {
    let mount = root.join("sys/fs/cgroup");
    let Some(text) = read(root.join("proc/self/cgroup")) else { return Vec::new() };
    let Some(group) = parse_group(&text) else { return Vec::new() };
    let group = mount.join(group);
    let above = group.ancestors().take_while(|group| group.starts_with(&mount));
    above.filter_map(|group| Some((group.into(), parse_limit(&read(group.join("memory.max"))?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684084 kB\nMemFree:        21462864 kB\nMemAvailable:   23492304 kB\n\
        Buffers:           26864 kB\nHugePages_Total:       0\n";

    #[test]
    fn fields() {
        let check = |text: &str, name: &str, expect: Option<u64>| {
            assert_eq!(parse_field_mb(text, name), expect, "{name} in {text}");
        };
        check(MEMINFO, "MemAvailable", Some(22_941));
        check(MEMINFO, "MemTotal", Some(24_105));
        check(MEMINFO, "Mem", None);
        check(MEMINFO, "HugePages_Total", None);
        check("Name:\ttalkoo\nVmRSS:\t  389120 kB\n", "VmRSS", Some(380));
        check("VmRSS:\t  -1 kB\n", "VmRSS", None);
        check("VmRSS:\t kB\n", "VmRSS", None);
        check("VmRSS", "VmRSS", None);
        check("", "VmRSS", None);
    }

    #[test]
    fn groups() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(parse_group(text), expect, "{text}");
        check("0::/user.slice/user-1000.slice/session-2.scope\n", Some("user.slice/user-1000.slice/session-2.scope"));
        check("9:name=systemd:/\n8:pids:/\n0::/\n", Some(""));
        check("0::/../../other\n", None);
        check("4:memory:/docker/b0a1\n", None);
        check("", None);
    }

    #[test]
    fn limits() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(parse_limit(text), expect, "{text}");
        check("max\n", None);
        check("2147483648\n", Some(2_147_483_648));
        check("-1\n", None);
        check("", None);
        let check = |current: &str, stat: &str, expect: Option<u64>| {
            assert_eq!(headroom(1000, current, stat), expect, "{current} {stat}");
        };
        check("400\n", "anon 300\nfile 100\ninactive_file 60\n", Some(660));
        check("400\n", "", Some(600));
        check("400\n", "inactive_file x\n", Some(600));
        check("1400\n", "inactive_file 0\n", Some(0));
        check("10\n", "inactive_file 60\n", Some(1000));
        check("x", "", None);
    }

    #[test]
    fn the_least_limit_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        assert_eq!(free_mb(dir.path()), None);
        put("proc/meminfo", MEMINFO);
        assert_eq!(free_mb(dir.path()), Some(22_941));
        put("proc/self/cgroup", "0::/user.slice/app.scope\n");
        put("sys/fs/cgroup/user.slice/memory.max", "4294967296\n");
        put("sys/fs/cgroup/user.slice/memory.current", "1073741824\n");
        put("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n");
        assert_eq!((free_mb(dir.path()), total_mb(dir.path())), (Some(3072), Some(4096)));
        put("proc/self/status", "Name:\ttalkoo\nVmRSS:\t  389120 kB\n");
        put("proc/77/status", "Name:\ttalkoo\nVmRSS:\t  1024 kB\n");
        assert_eq!(own_mb(dir.path(), &[77, 78]), Some(381));
    }
}
