//! What is used of processors, memory, file systems and open files, as the kernel tells it.
//!
//! | What | Of what | Where that is read, the first that is there |
//! | --- | --- | --- |
//! | cpu | The quota of the control group, else all processors | v2 `cpu.max`, `cpu.stat`; v1 `cpu.cfs_quota_us`, `cpuacct.usage`; `/proc/stat` |
//! | memory | The limit of the control group, else all memory | v2 `memory.max`, `memory.current` less `inactive_file`; v1 `memory.limit_in_bytes`, `memory.usage_in_bytes` less `total_inactive_file`; `/proc/meminfo` |
//! | disk | The file system of a folder, as its owner may use it | `statvfs(3)` |
//! | descriptors | `RLIMIT_NOFILE` | `/proc/self/fd`, `getrlimit(2)` |
//!
//! Of control groups it is the nearest one with a limit, from that of the process (`/proc/self/cgroup`) upwards. What is
//! there and cannot be understood is an error with its place: nothing else is taken in its stead.
//!
//! It blocks. Whoever calls does so off the runtime.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};
use tokio::time::Instant;

/// What was read, and when.
#[derive(Clone, Debug)]
pub struct Readings {
    /// When.
    pub at: Instant,
    /// Of processors.
    pub cpu: Result<CpuReading, String>,
    /// Tenths of a percent.
    pub memory: Result<u32, String>,
    /// Tenths of a percent.
    pub descriptors: Result<u32, String>,
    /// By folder, in tenths of a percent.
    pub disks: Vec<(Arc<str>, Result<u32, String>)>,
}

/// A meter of the time that processors have worked: two of them say how busy they were in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuReading {
    /// Of a control group with a quota.
    Quota {
        /// Microseconds of work.
        used_us: u64,
        /// Microseconds of work that it may have,
        quota_us: u64,
        /// in so many microseconds.
        period_us: u64,
    },
    /// Of all processors, in ticks.
    Machine {
        /// At work.
        busy: u64,
        /// Of so many.
        all: u64,
    },
}

impl CpuReading {
    /// How busy they were since `before`, in tenths of a percent; nothing if that was another meter, or no time has gone by.
    pub fn since(self, before: Self, elapsed_us: u64) -> Option<u32> {
        match (before, self) {
            (Self::Quota { used_us: before, .. }, Self::Quota { used_us, quota_us, period_us }) => {
                let may = u128::from(elapsed_us) * u128::from(quota_us) / u128::from(period_us.max(1));
                tenths(u128::from(used_us.checked_sub(before)?), may)
            }
            (Self::Machine { busy: before, all: all_before }, Self::Machine { busy, all }) => {
                tenths(busy.checked_sub(before)?.into(), all.checked_sub(all_before)?.into())
            }
            _ => None,
        }
    }
}

/// Reads everything; `root` is `/`, and something else in tests.
pub fn read(root: &Path, disks: &[Arc<str>]) -> Readings {
    Readings {
        at: Instant::now(),
        cpu: cpu(root),
        memory: memory(root),
        descriptors: descriptors(root),
        disks: disks.iter().map(|path| (Arc::clone(path), disk(path))).collect(),
    }
}

fn cpu(root: &Path) -> Result<CpuReading, String> {
    for group in groups(root, "")? {
        let Some(max) = there(&group.join("cpu.max"))? else { continue };
        let (quota, period) = max.trim().split_once(' ').ok_or_else(|| unclear(&group.join("cpu.max")))?;
        if quota == "max" {
            continue;
        }
        let stat = group.join("cpu.stat");
        let used = there(&stat)?.and_then(|text| field(&text, "usage_usec"));
        return Ok(CpuReading::Quota {
            used_us: used.ok_or_else(|| unclear(&stat))?,
            quota_us: number(quota, &group.join("cpu.max"))?,
            period_us: number(period, &group.join("cpu.max"))?,
        });
    }
    for group in groups(root, "cpu")? {
        let Some(quota) = there(&group.join("cpu.cfs_quota_us"))? else { continue };
        if quota.trim().starts_with('-') {
            continue; // None.
        }
        let period = group.join("cpu.cfs_period_us");
        let used = group.join("cpuacct.usage");
        return Ok(CpuReading::Quota {
            used_us: number(&there(&used)?.ok_or_else(|| unclear(&used))?, &used)? / 1000,
            quota_us: number(&quota, &group.join("cpu.cfs_quota_us"))?,
            period_us: number(&there(&period)?.ok_or_else(|| unclear(&period))?, &period)?,
        });
    }
    let path = root.join("proc/stat");
    let text = there(&path)?.ok_or_else(|| gone(&path))?;
    // `cpu  user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)); guests are in user and nice.
    let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).ok_or_else(|| unclear(&path))?;
    let ticks =
        line.split_whitespace().take(8).map(|word| number(word, &path)).collect::<Result<Vec<_>, _>>()?;
    let (Some(idle), true) = (ticks.get(3), ticks.len() >= 5) else { return Err(unclear(&path)) };
    let all = ticks.iter().fold(0_u64, |all, ticks| all.saturating_add(*ticks));
    Ok(CpuReading::Machine { busy: all.saturating_sub(idle.saturating_add(ticks[4])), all })
}

fn memory(root: &Path) -> Result<u32, String> {
    let of = |group: &Path, [limit, used, stat, inactive]: [&str; 4]| -> Result<Option<u32>, String> {
        let path = group.join(limit);
        let Some(most) = there(&path)? else { return Ok(None) };
        if most.trim() == "max" {
            return Ok(None);
        }
        let most = number(&most, &path)?;
        if most >= UNLIMITED {
            return Ok(None);
        }
        let path = group.join(used);
        let used = number(&there(&path)?.ok_or_else(|| gone(&path))?, &path)?;
        // The kernel gives it back before anybody has to die for it.
        let path = group.join(stat);
        let text = there(&path)?.ok_or_else(|| gone(&path))?;
        let cached = field(&text, inactive).ok_or_else(|| unclear(&path))?;
        Ok(tenths(used.saturating_sub(cached).into(), most.into()))
    };
    for group in groups(root, "")? {
        if let Some(used) = of(&group, ["memory.max", "memory.current", "memory.stat", "inactive_file"])? {
            return Ok(used);
        }
    }
    let v1 = ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"];
    for group in groups(root, "memory")? {
        if let Some(used) = of(&group, v1)? {
            return Ok(used);
        }
    }
    let path = root.join("proc/meminfo");
    let text = there(&path)?.ok_or_else(|| gone(&path))?;
    let (all, free) = (field(&text, "MemTotal:"), field(&text, "MemAvailable:"));
    let used = all.zip(free).and_then(|(all, free)| tenths(all.saturating_sub(free).into(), all.into()));
    used.ok_or_else(|| unclear(&path))
}

/// A limit of version 1 that is none: the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

/// What can be had is what is used and what its owner may still take: what is reserved for root is neither.
fn disk(path: &str) -> Result<u32, String> {
    let is = statvfs(path).map_err(|error| format!("{path}: {error}"))?;
    let used = is.f_blocks.saturating_sub(is.f_bfree);
    let all = u128::from(used) + u128::from(is.f_bavail);
    tenths(used.into(), all).ok_or_else(|| format!("{path}: this file system has no blocks"))
}

fn descriptors(root: &Path) -> Result<u32, String> {
    let path = root.join("proc/self/fd");
    let open = fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?.count();
    let Some(most) = getrlimit(Resource::Nofile).current else { return Ok(0) };
    tenths(u128::try_from(open).unwrap_or(u128::MAX), most.into())
        .ok_or_else(|| "RLIMIT_NOFILE is 0".to_owned())
}

/// The control groups of the process, its own first, of version 2, or those of a controller of version 1; where they are
/// mounted usually. In a container with a view of its own its group is at the top.
fn groups(root: &Path, controller: &str) -> Result<Vec<PathBuf>, String> {
    let Some(text) = there(&root.join("proc/self/cgroup"))? else { return Ok(Vec::new()) };
    let own = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|it| it == controller).then_some(path)
    });
    let Some(own) = own else { return Ok(Vec::new()) };
    let top = root.join("sys/fs/cgroup").join(controller);
    // A path of another view (`/../..`) leads nowhere here.
    let own = Path::new(own.trim_start_matches('/'));
    let is_plain = own.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let own = if is_plain { own } else { Path::new("") };
    Ok(own.ancestors().map(|path| top.join(path)).collect())
}

/// What stands in a file; nothing if there is none.
fn there(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| unclear(path)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The number behind a word, on a line of its own.
fn field(text: &str, word: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut line| (line.next() == Some(word)).then(|| line.next()?.parse().ok())?)
}

fn number(text: &str, path: &Path) -> Result<u64, String> {
    text.trim().parse().map_err(|_| unclear(path))
}

fn unclear(path: &Path) -> String {
    format!("{}: it is not what was expected", path.display())
}

fn gone(path: &Path) -> String {
    format!("{}: it is not there", path.display())
}

fn tenths(used: u128, all: u128) -> Option<u32> {
    Some(u32::try_from((used * 1000).checked_div(all)?).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn root(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: [(&str, &str); 2] = [
        ("proc/stat", "cpu  100 0 50 700 100 20 30 0 5 0\ncpu0 1 2 3 4 5\n"),
        ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  250 kB\n"),
    ];

    #[test]
    fn r10_6_a_group_of_version_2_counts_by_its_quota_and_its_limit() {
        let root = root(&[
            ("proc/self/cgroup", "0::/shop.slice/naka.service\n"),
            ("sys/fs/cgroup/shop.slice/naka.service/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/shop.slice/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/shop.slice/cpu.stat", "usage_usec 4000000\nuser_usec 1\n"),
            ("sys/fs/cgroup/shop.slice/naka.service/memory.max", "1000\n"),
            ("sys/fs/cgroup/shop.slice/naka.service/memory.current", "900\n"),
            ("sys/fs/cgroup/shop.slice/naka.service/memory.stat", "anon 1\ninactive_file 200\n"),
        ]);
        let is = read(root.path(), &[]);
        let expected = CpuReading::Quota { used_us: 4 * SECOND, quota_us: 50_000, period_us: 100_000 };
        assert_eq!((is.cpu.clone(), is.memory), (Ok(expected), Ok(700)));
        // Of ten seconds it may have five, and had four.
        let before = CpuReading::Quota { used_us: 0, quota_us: 50_000, period_us: 100_000 };
        assert_eq!(is.cpu.unwrap().since(before, 10 * SECOND), Some(800));
    }

    #[test]
    fn r10_6_so_does_one_of_version_1() {
        let root = root(&[
            ("proc/self/cgroup", "12:memory:/naka\n4:cpu,cpuacct:/naka\n"),
            ("sys/fs/cgroup/cpu/naka/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/naka/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/naka/cpuacct.usage", "3000000000\n"),
            ("sys/fs/cgroup/memory/naka/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/naka/memory.usage_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/naka/memory.stat", "total_inactive_file 100\n"),
        ]);
        let is = read(root.path(), &[]);
        let expected = CpuReading::Quota { used_us: 3 * SECOND, quota_us: 200_000, period_us: 100_000 };
        assert_eq!((is.cpu, is.memory), (Ok(expected), Ok(450)));
    }

    #[test]
    fn r10_6_without_a_limit_the_machine_counts() {
        let unlimited = [
            ("proc/self/cgroup", "12:memory:/naka\n4:cpu,cpuacct:/naka\n0::/../elsewhere\n"),
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/cpu/naka/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/memory/naka/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        for root in [root(&MACHINE), root(&[&MACHINE[..], &unlimited[..]].concat())] {
            let is = read(root.path(), &[]);
            assert_eq!(
                (is.cpu.clone(), is.memory),
                (Ok(CpuReading::Machine { busy: 200, all: 1000 }), Ok(750))
            );
            let before = CpuReading::Machine { busy: 100, all: 800 };
            assert_eq!(is.cpu.unwrap().since(before, 0), Some(500));
        }
    }

    #[test]
    fn r10_6_what_cannot_be_read_is_unknown_and_says_where() {
        let nothing = root(&[]);
        let is = read(nothing.path(), &["/no/such/folder".into()]);
        assert!(is.cpu.unwrap_err().contains("proc/stat: it is not there"));
        assert!(is.memory.unwrap_err().contains("proc/meminfo: it is not there"));
        assert!(is.descriptors.unwrap_err().contains("proc/self/fd"));
        assert!(is.disks[0].1.as_ref().unwrap_err().contains("/no/such/folder"));
        let group = ("proc/self/cgroup", "0::/\n");
        for garbage in ["", "x", "12", "max", "-5 x\n", "\u{0}", "99999999999999999999 100000"] {
            let root = root(&[MACHINE[0], MACHINE[1], group, ("sys/fs/cgroup/cpu.max", garbage)]);
            let why = read(root.path(), &[]).cpu.unwrap_err();
            assert!(why.contains("sys/fs/cgroup/cpu"), "{garbage}: {why}");
        }
        for garbage in ["", "x", "-1", "12 13"] {
            let root = root(&[MACHINE[0], MACHINE[1], group, ("sys/fs/cgroup/memory.max", garbage)]);
            let why = read(root.path(), &[]).memory.unwrap_err();
            assert!(why.contains("memory.max: it is not what was expected"), "{garbage}: {why}");
        }
        for garbage in ["", "cpu", "cpu  1 2", "cpu  a b c d e", "cpuacct 1 2 3 4 5"] {
            let root = root(&[("proc/stat", garbage), ("proc/meminfo", garbage)]);
            let is = read(root.path(), &[]);
            assert!(is.cpu.unwrap_err().contains("proc/stat") && is.memory.is_err(), "{garbage}");
        }
    }

    #[test]
    fn r10_6_no_number_makes_a_meter_fail() {
        let quota = |used_us, quota_us, period_us| CpuReading::Quota { used_us, quota_us, period_us };
        let max = u64::MAX;
        assert_eq!(quota(max, max, 1).since(quota(0, max, 1), max), Some(0));
        assert_eq!(quota(5, 0, 0).since(quota(0, 0, 0), 10), None);
        assert_eq!(quota(0, 1, 1).since(quota(5, 1, 1), 10), None); // It went back.
        assert_eq!(quota(max, 1, 1).since(quota(0, 1, 1), 1), Some(u32::MAX));
        assert_eq!(quota(1, 1, 1).since(CpuReading::Machine { busy: 0, all: 0 }, 1), None);
    }

    #[test]
    fn r10_6_this_machine_can_be_read() {
        let is = read(Path::new("/"), &["/".into()]);
        assert!(is.cpu.is_ok() && is.memory.is_ok() && is.descriptors.is_ok(), "{is:?}");
        assert!(is.disks[0].1.as_ref().is_ok_and(|used| *used <= 1000), "{is:?}");
    }
}
