//! What a CPU says about itself.

/// Bytes of a first-level cache of data where nobody says how large it is.
const USUAL: usize = 32 << 10;

/// Who made the CPU (leaf 0 of CPUID).
#[cfg(target_arch = "x86_64")]
pub(super) fn vendor() -> [u8; 12] {
    let [_, ebx, ecx, edx] = cpuid(0, 0);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    name
}

/// Bytes of the first-level cache of data.
pub(crate) fn first_cache() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // The leaves that list caches, of AMD and of Intel; the first of the level and kind is it.
        for (leaf, leaves) in [(0x8000_001d, 0x8000_0000), (4, 0)] {
            if cpuid(leaves, 0)[0] < leaf {
                continue;
            }
            for at in 0..4 {
                let [eax, ebx, ecx, _] = cpuid(leaf, at);
                if let Some(bytes) = of_data(eax, ebx, ecx) {
                    return bytes;
                }
            }
        }
    }
    USUAL
}

/// Has what lies at an address, wherever that is, brought into the first-level cache.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, which reads nothing that a program could notice.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Bytes of the cache that registers describe, if it is the first level's for data.
#[cfg(any(target_arch = "x86_64", test))]
fn of_data(eax: u32, ebx: u32, ecx: u32) -> Option<usize> {
    let (kind, level) = (eax & 0x1f, eax >> 5 & 7);
    let [line, partitions, ways] =
        [ebx & 0xfff, ebx >> 12 & 0x3ff, ebx >> 22].map(|n| n as usize + 1);
    let bytes = (line * partitions * ways).checked_mul(ecx as usize + 1)?;
    let (data, unified) = (1, 3);
    let is_it = level == 1 && (kind == data || kind == unified);
    // A machine that is emulated may say anything.
    (is_it && (USUAL / 2..=USUAL * 4).contains(&bytes)).then_some(bytes)
}

/// What a leaf of CPUID has: the registers eax, ebx, ecx and edx.
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, part: u32) -> [u32; 4] {
    // Compilers before 1.94 call it unsafe.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 has the instruction; leaves that it has not are those of another.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(leaf, part) };
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_as_large_as_registers_say() {
        // A Zen 5's, 48 KiB in 12 ways of 64 sets; then its instructions', its second level, and nonsense.
        let (line, ways, sets) = (63, 11 << 22, 63);
        assert_eq!(of_data(1 | 1 << 5, line | ways, sets), Some(48 << 10));
        assert_eq!(of_data(2 | 1 << 5, line | ways, sets), None);
        assert_eq!(of_data(3 | 2 << 5, line | ways, sets), None);
        assert_eq!(of_data(1 | 1 << 5, 0, 0), None);
        assert_eq!(of_data(1 | 1 << 5, u32::MAX, u32::MAX), None);
        assert!((USUAL / 2..=USUAL * 4).contains(&first_cache()));
    }
}
