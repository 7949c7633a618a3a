#![forbid(unsafe_code)]
//! How much memory a process may still take before the kernel kills somebody for it: what the
//! machine has, and what the process's memory cgroup and the cgroups above it have left.
//!
//! Version 2 of cgroups, version 1, and both at once (memory is then in one of them). Inside a cgroup
//! namespace, and in a container that sees nothing but its own part of the tree, paths begin at what
//! can be seen. A file that is missing, or that cannot be understood, sets no limit.
//!
//! Pages of files count as free, as `MemAvailable` has it: the kernel takes them back.
//!
//! Nothing is allocated: files are read line by line, and no line is longer than [`LINE`]. Little of
//! the stack is used either, so paths are changed in place and not returned.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Longest line that is understood.
const LINE: usize = 512;

/// Longest path of a cgroup, and of the files in it.
const PATH: usize = 512;

/// Calls `each` with the lines of a file, without their ends, until it says that it has seen enough
/// (`false`). Lines that are too long are left out.
fn lines(path: &CStr, mut each: impl FnMut(&[u8]) -> bool) -> Option<()> {
    let file: OwnedFd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let (mut buffer, mut len, mut skipping) = ([0_u8; LINE], 0, false);
    loop {
        let count = match nix::unistd::read(&file, &mut buffer[len..]) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(_) => return None,
        };
        if count == 0 {
            if len > 0 && !skipping {
                each(&buffer[..len]);
            }
            return Some(());
        }
        len += count;
        let mut from = 0;
        while let Some(end) = buffer[from..len].iter().position(|&byte| byte == b'\n') {
            if !std::mem::take(&mut skipping) && !each(&buffer[from..from + end]) {
                return Some(());
            }
            from += end + 1;
        }
        buffer.copy_within(from..len, 0);
        len -= from;
        if len == LINE {
            (len, skipping) = (0, true);
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// The number behind `key` on a line of /proc/meminfo or memory.stat.
fn field(line: &[u8], key: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(key)?.trim_ascii();
    number(rest.strip_suffix(b"kB").unwrap_or(rest))
}

/// A path, on the stack.
pub(crate) struct Path {
    /// Followed by a NUL at least.
    bytes: [u8; PATH],
    len: usize,
}

impl Path {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; PATH], len: 0 }
    }

    /// Makes it what these parts are together. `false`, and empty, if that is too long.
    fn set(&mut self, parts: &[&[u8]]) -> bool {
        self.cut(0);
        parts.iter().all(|part| self.push(part)) || {
            self.cut(0);
            false
        }
    }

    /// Appends; `false`, and nothing is done, if it is too long then.
    fn push(&mut self, part: &[u8]) -> bool {
        let end = self.len + part.len();
        if end >= PATH {
            return false;
        }
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
        true
    }

    fn cut(&mut self, len: usize) {
        self.bytes[len..self.len].fill(0);
        self.len = len;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// Names of a version's files, and of what counts as free in its memory.stat.
struct Version {
    limit: &'static [u8],
    usage: &'static [u8],
    free: [&'static [u8]; 2],
}

const V1: Version = Version {
    limit: b"/memory.limit_in_bytes",
    usage: b"/memory.usage_in_bytes",
    free: [b"total_inactive_file ", b"total_active_file "],
};

const V2: Version = Version {
    limit: b"/memory.max",
    usage: b"/memory.current",
    free: [b"inactive_file ", b"active_file "],
};

/// The path of the process's cgroup, by a line of /proc/self/cgroup, if it is the one for memory of
/// version 1 (`true`) or the one of version 2.
fn cgroup_line(line: &[u8]) -> Option<(bool, &[u8])> {
    let mut parts = line.splitn(3, |&byte| byte == b':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_v1 = controllers.split(|&byte| byte == b',').any(|name| name == b"memory");
    (is_v1 || controllers.is_empty()).then_some((is_v1, path))
}

/// Which part of the tree is mounted, and where, by a line of /proc/self/mountinfo, if it is that of
/// memory of version 1 (`true`) or that of version 2.
fn mount_line(line: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let middle = line.windows(3).position(|three| three == b" - ")?;
    let mut before = line[..middle].split(|&byte| byte == b' ').skip(3);
    let (root, at) = (before.next()?, before.next()?);
    let mut after = line[middle + 3..].split(|&byte| byte == b' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let is_v1 =
        kind == b"cgroup" && options.split(|&byte| byte == b',').any(|option| option == b"memory");
    (is_v1 || kind == b"cgroup2").then_some((is_v1, root, at))
}

/// The part of the cgroup's `path` behind `root`, the part of the tree that is mounted. Empty for
/// what is not below `root`, and so cannot be seen: then the uppermost that can is asked.
fn below<'a>(path: &'a [u8], root: &[u8]) -> &'a [u8] {
    let root = if root == b"/" { &b""[..] } else { root };
    let rest = path.strip_prefix(root).unwrap_or(b"");
    let rest = rest.strip_suffix(b"/").unwrap_or(rest);
    if rest.starts_with(b"/") && !rest.starts_with(b"/..") { rest } else { b"" }
}

/// What the cgroup has left, whose directory it is; that is the same afterwards.
fn left(directory: &mut Path, version: &Version) -> Option<u64> {
    let limit = value(directory, version.limit)?;
    let usage = value(directory, version.usage)?;
    let (mut free, len) = (0_u64, directory.len);
    if directory.push(b"/memory.stat") {
        lines(directory.as_c_str(), |line| {
            let found = version.free.iter().find_map(|key| field(line, key));
            free = free.saturating_add(found.unwrap_or(0));
            true
        });
        directory.cut(len);
    }
    Some(limit.saturating_sub(usage.saturating_sub(free)))
}

/// The number in a file of the directory.
fn value(directory: &mut Path, name: &[u8]) -> Option<u64> {
    let (len, mut value) = (directory.len, None);
    if directory.push(name) {
        lines(directory.as_c_str(), |line| {
            value = number(line);
            false
        });
        directory.cut(len);
    }
    value
}

/// Makes `directory` that of the process's cgroup, of version 1 or 2; the length of the uppermost one's
/// path that can be seen.
#[inline(never)]
fn locate(is_v1: bool, directory: &mut Path) -> Option<usize> {
    let (mut own, mut found) = (Path::new(), false);
    lines(c"/proc/self/cgroup", |line| match cgroup_line(line) {
        Some((kind, path)) if kind == is_v1 => {
            found = own.set(&[path]);
            false
        }
        _ => true,
    })?;
    let mut top = None;
    lines(c"/proc/self/mountinfo", |line| match mount_line(line) {
        Some((kind, root, at)) if kind == is_v1 && found => {
            let done = directory.set(&[at, below(own.as_bytes(), root)]);
            top = done.then_some(at.len());
            false
        }
        _ => true,
    })?;
    top
}

/// The least that the process's memory cgroup and those above it have left, and the path of the file
/// that limits it if that is asked for; `None` without a limit.
#[inline(never)]
pub(crate) fn left_in_cgroup(mut file: Option<&mut Path>) -> Option<u64> {
    let mut least = None;
    let mut directory = Path::new();
    for (is_v1, version) in [(false, &V2), (true, &V1)] {
        let Some(top) = locate(is_v1, &mut directory) else { continue };
        loop {
            if let Some(left) = left(&mut directory, version)
                && least.is_none_or(|least| left < least)
            {
                least = Some(left);
                if let Some(file) = &mut file {
                    file.set(&[directory.as_bytes(), version.limit]);
                }
            }
            match directory.as_bytes().iter().rposition(|&byte| byte == b'/') {
                Some(up) if up >= top => directory.cut(up),
                _ => break,
            }
        }
    }
    least
}

/// `MemAvailable` and `SwapFree` of /proc/meminfo, in bytes; `None` where it is missing.
pub(crate) fn left_on_machine() -> Option<u64> {
    let (mut available, mut swap) = (None, 0_u64);
    lines(c"/proc/meminfo", |line| {
        available = available.or(field(line, b"MemAvailable:"));
        match field(line, b"SwapFree:") {
            Some(free) => swap = free,
            None => return true,
        }
        false
    });
    available?.checked_add(swap)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cgroup() {
        assert_eq!(cgroup_line(b"4:memory:/docker/12"), Some((true, &b"/docker/12"[..])));
        assert_eq!(cgroup_line(b"4:cpu,memory:/a:b"), Some((true, &b"/a:b"[..])));
        assert_eq!(cgroup_line(b"0::/"), Some((false, &b"/"[..])));
        for other in [&b"1:name=systemd:/"[..], b"3:cpuset:/x", b"", b"0:", b"7:memoryx:/"] {
            assert_eq!(cgroup_line(other), None);
        }
    }

    #[test]
    fn lines_of_mountinfo() {
        let v1 = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,memory";
        assert_eq!(mount_line(v1), Some((true, &b"/"[..], &b"/sys/fs/cgroup/memory"[..])));
        let both = b"35 31 0:32 /docker/1 /m rw - cgroup none rw,cpu,memory";
        assert_eq!(mount_line(both), Some((true, &b"/docker/1"[..], &b"/m"[..])));
        let v2 = b"30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        assert_eq!(mount_line(v2), Some((false, &b"/"[..], &b"/sys/fs/cgroup"[..])));
        for other in [
            &b"33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct"[..],
            b"22 1 8:1 / / rw - ext4 /dev/sda1 rw",
            b"22 1 8:1 / / rw",
            b"",
            b" - cgroup2",
        ] {
            assert_eq!(mount_line(other), None);
        }
    }

    #[test]
    fn what_is_below() {
        assert_eq!(below(b"/a/b", b"/"), b"/a/b");
        // In a namespace of its own, or at the top.
        assert_eq!(below(b"/", b"/"), b"");
        // A container that has its own part of the tree mounted and sees the whole path.
        assert_eq!(below(b"/docker/12", b"/docker/12"), b"");
        assert_eq!(below(b"/docker/12/x", b"/docker/12"), b"/x");
        assert_eq!(below(b"/docker/123", b"/docker/12"), b"");
        assert_eq!(below(b"/../other", b"/"), b"");
        assert_eq!(below(b"/a", b"/b"), b"");
    }

    #[test]
    fn paths() {
        let mut path = Path::new();
        assert!(path.set(&[b"/c", b"/x"]) && path.push(b"/memory.max"));
        assert_eq!(path.as_c_str(), c"/c/x/memory.max");
        path.cut(4);
        assert_eq!((path.as_c_str(), path.to_string().as_str()), (c"/c/x", "/c/x"));
        assert!(!path.push(&[b'x'; PATH - 4]) && path.len == 4);
        assert!(path.push(&[b'x'; PATH - 5]) && path.as_c_str().count_bytes() == PATH - 1);
        assert!(!path.set(&[b"/c", &[b'x'; PATH]]) && path.as_c_str() == c"");
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"max"), None);
        assert_eq!(number(b" 12\n"), Some(12));
        assert_eq!(field(b"MemAvailable:   54 kB", b"MemAvailable:"), Some(54));
        assert_eq!(field(b"inactive_file 4096", b"inactive_file "), Some(4096));
        assert_eq!(field(b"active_file 4096", b"inactive_file "), None);
        assert!(left_on_machine().unwrap() > 1 << 20);
    }

    #[test]
    fn what_two_files_say() {
        let dir = std::env::temp_dir().join(format!("mdg-cgroup-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let ask = |version| {
            let mut path = Path::new();
            assert!(path.set(&[dir.as_os_str().as_encoded_bytes()]));
            let left = left(&mut path, version);
            assert_eq!(path.to_string(), dir.to_str().unwrap());
            left
        };
        assert_eq!(ask(&V2), None);
        put("memory.current", "900\n");
        put("memory.max", "max\n");
        assert_eq!(ask(&V2), None);
        put("memory.max", "1000\n");
        assert_eq!(ask(&V2), Some(100));
        put("memory.stat", "anon 5\ninactive_file 300\nactive_file 50\nslab 9\n");
        assert_eq!(ask(&V2), Some(450));
        put("memory.limit_in_bytes", "9223372036854771712\n");
        put("memory.usage_in_bytes", "10\n");
        assert_eq!(ask(&V1), Some(9_223_372_036_854_771_702));
        put("memory.limit_in_bytes", "5\n");
        assert_eq!(ask(&V1), Some(0));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn long_lines_are_left_out() {
        let path = std::env::temp_dir().join(format!("mdg-lines-{}", std::process::id()));
        let long = "x".repeat(LINE * 3);
        std::fs::write(&path, format!("one\n{long}\ntwo\n{long}\n\nlast")).unwrap();
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let mut seen = Vec::new();
        lines(&name, |line| {
            seen.push(String::from_utf8(line.to_vec()).unwrap());
            true
        })
        .unwrap();
        assert_eq!(seen, ["one", "two", "", "last"]);
        std::fs::remove_file(path).unwrap();
    }
}
