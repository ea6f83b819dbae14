//! What this machine is.

use std::fs;
use std::thread;

use lathe::device::Simd;
use serde::Serialize;

/// The parts of a machine that timings depend on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The CPU, as its maker calls it.
    pub cpu: String,
    /// Threads that may run at once.
    pub cores: usize,
    /// The vector instructions that kernels use.
    pub simd: String,
    /// Size of the largest cache, in bytes.
    pub cache_bytes: Option<u64>,
    /// In bytes.
    pub memory_bytes: Option<u64>,
    /// In bytes.
    pub memory_available_bytes: Option<u64>,
    /// Whether the system backs large allocations by huge pages: `always`, `madvise` (where asked for, as here) or
    /// `never`.
    pub huge_pages: Option<String>,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// This machine. What the system does not tell is `None` or `unknown`.
    pub fn this() -> Self {
        let (cpu_info, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let cpu = after(&cpu_info, "model name").unwrap_or("unknown").trim_start_matches([' ', '\t', ':']);
        let caches = (0..8).filter_map(|i| {
            parse_size(read(&format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).trim())
        });
        let huge_pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let chosen = huge_pages.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        Self {
            cpu: cpu.to_owned(),
            cores: thread::available_parallelism().map_or(1, Into::into),
            simd: Simd::detect().to_string(),
            cache_bytes: caches.max(),
            memory_bytes: after(&memory, "MemTotal:").and_then(parse_size),
            memory_available_bytes: after(&memory, "MemAvailable:").and_then(parse_size),
            huge_pages: chosen.map(|(name, _)| name.to_owned()),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The rest of the first line that begins with `key`.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))
}

/// Bytes of `32768K`, `24 kB`, `1M`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "K" | "kB" => 1 << 10,
        "M" => 1 << 20,
        "" => 1,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_system_writes_them() {
        assert_eq!(parse_size(" 32768K"), Some(32 << 20));
        assert_eq!(parse_size("       24576000 kB"), Some(24_576_000 << 10));
        assert_eq!(parse_size("12 parsecs"), None);
        assert_eq!(after("a: 1\nMemTotal:  5 kB\n", "MemTotal:"), Some("  5 kB"));
    }

    #[test]
    fn this_machine_has_a_core_and_a_name() {
        let machine = Machine::this();
        assert!(machine.cores >= 1 && !machine.cpu.is_empty() && !machine.cpu.starts_with([' ', ':']));
    }
}
