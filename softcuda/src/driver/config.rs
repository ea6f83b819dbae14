//! The environment variables.

use crate::{
    device::Arch,
    exec::{Checks, Profile},
};

/// What `SOFTCUDA_*` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `SOFTCUDA_DEVICES`, 1 to 64.
    pub devices: u32,
    /// `SOFTCUDA_ARCH`.
    pub arch: Arch,
    /// `SOFTCUDA_MEMORY`: bytes of each device.
    pub memory: u64,
    /// `SOFTCUDA_CHECK`.
    pub checks: Checks,
    /// `SOFTCUDA_PROFILE`: the file for the counters.
    pub profile: Option<String>,
    /// `SOFTCUDA_PROFILE_LINES=1`: counters by source line too.
    pub lines: bool,
    /// `SOFTCUDA_THREADS`: host threads of a launch.
    pub threads: Option<usize>,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// A sentence that names the variable, its value and what was wanted.
    pub fn from_env() -> Result<Self, String> {
        Self::parse(|name| std::env::var(name).ok())
    }

    fn parse(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| var(name).filter(|value| !value.is_empty());
        let number = |name: &str, range: std::ops::RangeInclusive<u64>| match get(name) {
            None => Ok(None),
            Some(value) => match value.parse() {
                Ok(n) if range.contains(&n) => Ok(Some(n)),
                _ => {
                    Err(format!("{name}={value}: wanted a number from {} to {}", range.start(), range.end()))
                }
            },
        };
        let arch = match get("SOFTCUDA_ARCH").as_deref() {
            None | Some("sm_80") => Arch::Sm80,
            Some("sm_90") => Arch::Sm90,
            Some(other) => return Err(format!("SOFTCUDA_ARCH={other}: wanted sm_80 or sm_90")),
        };
        let mut checks = Checks::default();
        for name in get("SOFTCUDA_CHECK").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
            match name.trim() {
                // Bounds are always checked.
                "memory" => {}
                "init" => checks.init = true,
                "race" => checks.race = true,
                "sync" => checks.sync = true,
                "all" => checks = Checks { init: true, race: true, sync: true },
                other => {
                    return Err(format!(
                        "SOFTCUDA_CHECK: {other}: wanted some of memory, init, race, sync, or all"
                    ));
                }
            }
        }
        Ok(Self {
            devices: number("SOFTCUDA_DEVICES", 1..=64)?.unwrap_or(1) as u32,
            arch,
            memory: number("SOFTCUDA_MEMORY", 1 << 20..=1 << 44)?.unwrap_or(4 << 30),
            checks,
            profile: get("SOFTCUDA_PROFILE"),
            lines: number("SOFTCUDA_PROFILE_LINES", 0..=1)? == Some(1),
            threads: number("SOFTCUDA_THREADS", 1..=1024)?.map(|n| n as usize),
        })
    }

    /// What launches are asked to count.
    pub fn counting(&self) -> Profile {
        match (&self.profile, self.lines) {
            (None, _) => Profile::Off,
            (Some(_), false) => Profile::Kernel,
            (Some(_), true) => Profile::Lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Result<Config, String> {
        Config::parse(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string()))
    }

    #[test]
    fn defaults_and_every_variable() {
        let d = parse(&[]).unwrap();
        assert_eq!((d.devices, d.arch, d.memory, d.counting()), (1, Arch::Sm80, 4 << 30, Profile::Off));
        let c = parse(&[
            ("SOFTCUDA_DEVICES", "2"),
            ("SOFTCUDA_ARCH", "sm_90"),
            ("SOFTCUDA_MEMORY", "1048576"),
            ("SOFTCUDA_CHECK", "memory,race, sync"),
            ("SOFTCUDA_PROFILE", "p.json"),
            ("SOFTCUDA_THREADS", "3"),
        ])
        .unwrap();
        assert_eq!((c.devices, c.arch, c.memory, c.threads), (2, Arch::Sm90, 1 << 20, Some(3)));
        assert_eq!(c.checks, Checks { init: false, race: true, sync: true });
        assert_eq!(c.counting(), Profile::Kernel);
    }

    #[test]
    fn wrong_values_are_named() {
        let error = |name, value| parse(&[(name, value)]).unwrap_err();
        assert_eq!(error("SOFTCUDA_DEVICES", "0"), "SOFTCUDA_DEVICES=0: wanted a number from 1 to 64");
        assert_eq!(error("SOFTCUDA_ARCH", "sm_70"), "SOFTCUDA_ARCH=sm_70: wanted sm_80 or sm_90");
        assert!(error("SOFTCUDA_CHECK", "rice").contains("rice: wanted some of memory"));
    }
}
