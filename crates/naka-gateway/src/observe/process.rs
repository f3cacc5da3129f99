//! The process, as its operating system sees it, under the names that Prometheus' own libraries have for it.
//!
//! Linux says it in `/proc`; elsewhere only when the process began and how many processors there are is known.

use std::{fs, thread::available_parallelism};

use naka::clock::{Now, WallClock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// What is known of the process, read when somebody asks.
#[derive(Debug)]
struct Process {
    began: f64,
    /// How many may be at work at once, of this machine or as its cgroup says.
    cpus: f64,
}

pub(super) fn register(registry: &mut Registry) {
    let began = WallClock::default().unix(Now::read()).unwrap_or_default().as_secs_f64();
    let cpus = available_parallelism().map_or(1, usize::from);
    registry.register_collector(Box::new(Process { began, cpus: float(cpus as u64) }));
}

/// As the text has numbers.
#[allow(clippy::cast_precision_loss, reason = "no number here is beyond 2^53, and none is counted with")]
const fn float(number: u64) -> f64 {
    number as f64
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let stat = Stat::read();
        gauge("process_start_time_seconds", "When the process began, since 1970.", Some(self.began))?;
        gauge("naka_cpus", "Processors that the process may use at once.", Some(self.cpus))?;
        gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is resident.",
            stat.as_ref().map(|it| it.memory),
        )?;
        gauge(
            "naka_memory_limit_bytes",
            "Memory that the process may have: of its cgroup, or of the machine.",
            memory_limit().map(float),
        )?;
        gauge("process_open_fds", "File descriptors that are open.", open_fds().map(float))?;
        gauge("process_max_fds", "File descriptors that may be open.", max_fds().map(float))?;
        let Some(stat) = stat else { return Ok(()) };
        let cpu = ConstCounter::new(stat.cpu);
        let help = "Time of processors that the process has used.";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

/// Of `/proc/self/stat`.
struct Stat {
    /// In seconds.
    cpu: f64,
    /// In bytes.
    memory: f64,
}

impl Stat {
    #[cfg(target_os = "linux")]
    fn read() -> Option<Self> {
        use rustix::param::{clock_ticks_per_second, page_size};
        Self::of(
            &fs::read_to_string("/proc/self/stat").ok()?,
            float(clock_ticks_per_second()),
            float(page_size() as u64),
        )
    }

    #[cfg(not(target_os = "linux"))]
    const fn read() -> Option<Self> {
        None
    }

    /// What it says, in proc(5); the name of the process stands in parentheses, and may have any of them in it.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "read there only"))]
    fn of(text: &str, ticks: f64, page: f64) -> Option<Self> {
        let words = text.rsplit_once(')')?.1.split_ascii_whitespace().collect::<Vec<_>>();
        let number = |field: usize| words.get(field - 3)?.parse::<f64>().ok(); // As it counts them; two are gone.
        Some(Self { cpu: (number(14)? + number(15)?) / ticks, memory: number(24)? * page })
    }
}

fn open_fds() -> Option<u64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64) // One is of who looks.
}

fn max_fds() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// The least of what the cgroups (version 2) above the process say, else what the machine has.
fn memory_limit() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
    let total = total.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let above = std::iter::successors(Some(path), |path| {
        (!path.is_empty()).then(|| path.rsplit_once('/').map_or("", |(above, _)| above))
    });
    let limits = above.filter_map(|path| {
        fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.max")).ok()?.trim().parse::<u64>().ok()
    });
    limits.chain([total]).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_have_anything_in_it() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1000 1000000 25 18446744073709551615";
        let stat = Stat::of(text, 100.0, 4096.0).unwrap();
        assert_eq!((stat.cpu, stat.memory), (2.0, 102_400.0));
        assert!(Stat::of("7 (short) S 1", 100.0, 4096.0).is_none());
        assert!(Stat::of("nothing", 100.0, 4096.0).is_none());
    }
}
