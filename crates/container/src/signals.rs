//! Names of signals (signal(7)).

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// As the C library leaves them to programs: it keeps 32 and 33 for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal given by number or by name, with or without `SIG` (`TERM`, `sigterm`, `15`, `RTMIN+3`). 0 is
/// not a signal but a question whether the process exists.
pub fn signal_from_name(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (0..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == short) {
        return Some(*number);
    }
    let offset = |text: &str, sign: char| -> Option<i32> {
        if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok().filter(|n| (0..=30).contains(n)) }
    };
    if let Some(rest) = short.strip_prefix("RTMIN") {
        return offset(rest, '+').map(|n| RTMIN + n);
    }
    offset(short.strip_prefix("RTMAX")?, '-').map(|n| RTMAX - n)
}

/// The name of a signal, `SIGTERM`, `SIGRTMIN+3`.
pub fn signal_name(number: i32) -> String {
    match NAMES.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None if number == RTMIN => "SIGRTMIN".into(),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("SIGKILL", 9), ("sigusr1", 10), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("2", 2)]
        {
            assert_eq!(signal_from_name(text), Some(number), "{text}");
        }
        for bad in ["", "SIG", "SIGNOPE", "65", "-1", "RTMIN-1", "RTMIN+x"] {
            assert_eq!(signal_from_name(bad), None, "{bad}");
        }
        for number in 1..=64 {
            assert_eq!(signal_from_name(&signal_name(number)), Some(number));
        }
    }
}
