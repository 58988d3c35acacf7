//! How much memory a pass may take.

/// Bytes that this process can have at all: the machine's memory and swap space, less where a control group allows less.
/// `None` where the system does not tell.
///
/// The system grants an address space of any size and ends the program when the memory behind it is used up; a size
/// that comes from a file is compared with this first.
pub(crate) fn machine_memory() -> Option<u64> {
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|bytes| bytes.trim().parse().ok());
    let table = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = table.and_then(|table| total(&table));
    machine.into_iter().chain(group).min()
}

/// Memory and swap space in the text of `/proc/meminfo`.
fn total(table: &str) -> Option<u64> {
    let kilobytes = |key: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(key))?;
        line.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let sum = kilobytes("MemTotal")?.checked_add(kilobytes("SwapTotal").unwrap_or(0))?;
    sum.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_kilobytes_are_bytes() {
        let table =
            "MemTotal:       24680000 kB\nMemFree:  1 kB\nSwapCached: 5 kB\nSwapTotal:      1000 kB\n";
        assert_eq!(total(table), Some(24_681_000 * 1024));
        assert_eq!(total("MemTotal: 7 kB\n"), Some(7168));
        assert_eq!(total("MemTotal: many kB\n"), None);
        assert_eq!(total(""), None);
    }
}
