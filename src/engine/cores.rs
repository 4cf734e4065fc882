//! How many cores there are to work on.

/// Cores that this process may use, those of hyperthreads counted once: what the kernels wait for, the
/// loads and the multiply-adds of a core, its hyperthreads share. Where the system does not tell, as many
/// as threads run at once.
pub fn physical_cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    by_topology().map_or(threads, |cores| cores.clamp(1, threads))
}

/// From Linux's description of the CPUs (`Documentation/admin-guide/cputopology.rst`).
fn by_topology() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let siblings = |cpu: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(path).ok()
    };
    let mut cores = cpus(allowed)?.into_iter().map(siblings).collect::<Option<Vec<String>>>()?;
    cores.sort_unstable();
    cores.dedup();
    Some(cores.len())
}

/// The numbers of a list such as `0-3,8`.
fn cpus(list: &str) -> Option<Vec<usize>> {
    const MOST: usize = 1 << 14;
    let mut all = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("\t0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(cpus("5"), Some(vec![5]));
        assert_eq!(cpus(""), None);
        assert_eq!(cpus("0-99999999999"), None);
    }

    #[test]
    fn there_is_a_core_and_no_more_than_threads() {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        assert!((1..=threads).contains(&physical_cores()));
    }
}
