//! What a machine says on its console, and what of it can be trusted.
//!
//! A whole machine has no exit status and one serial line: the kernel's messages, firmware's escape sequences and the
//! workload's output arrive mixed. Commands are framed by marker lines with a random word the workload cannot
//! know; whatever is not framed is ignored, and whatever frames are broken count as not run.

use crate::boundary::Output;

/// The markers of one boot.
#[derive(Debug, Clone)]
pub(crate) struct Markers {
    word: String,
}

impl Markers {
    /// Markers with the given random word, which must be of letters and digits.
    pub fn new(word: String) -> Self {
        Self { word }
    }

    /// The line before command `index`.
    pub fn begin(&self, index: usize) -> String {
        format!("@@{} begin {index}", self.word)
    }

    /// The start of the line after command `index`; the exit status follows after a space.
    pub fn end(&self, index: usize) -> String {
        format!("@@{} end {index}", self.word)
    }

    /// The outputs of `count` commands, up to the first that did not end.
    pub fn parse(&self, console: &[u8], count: usize) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut rest = console;
        for index in 0..count {
            let Some(begin) = find(rest, self.begin(index).as_bytes()) else { break };
            let body = &rest[begin + self.begin(index).len()..];
            let Some(end) = find(body, format!("{} ", self.end(index)).as_bytes()) else { break };
            let tail = &body[end + self.end(index).len() + 1..];
            let status: String = tail.iter().take_while(|b| b.is_ascii_digit()).take(4).map(|&b| b as char).collect();
            let Ok(exit) = status.parse() else { break };
            outputs.push(Output { stdout: without_returns(&body[..end]), exit });
            rest = tail;
        }
        outputs
    }
}

/// The last line that says something, shortened and made printable.
pub(crate) fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let clean: String = line.chars().filter(|c| !c.is_control()).take(160).collect();
    (!clean.is_empty()).then_some(clean)
}

/// A serial line turns each line feed into carriage return and line feed.
fn without_returns(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = bytes.iter().copied().filter(|&b| b != b'\r').collect();
    text.strip_prefix(b"\n").map(<[u8]>::to_vec).unwrap_or(text)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers() -> Markers {
        Markers::new("k7".into())
    }

    #[test]
    fn framed_output_between_kernel_messages() {
        let console = b"\x1bc\x1b[?7l[ 0.1] Linux\r\n@@k7 begin 0\r\nhello\r\nworld\r\n@@k7 end 0 0\r\n[ 9.9] noise\r\n@@k7 begin 1\r\n@@k7 end 1 137\r\n";
        let outputs = markers().parse(console, 2);
        assert_eq!(outputs[0], Output { stdout: b"hello\nworld\n".to_vec(), exit: 0 });
        assert_eq!(outputs[1], Output { stdout: Vec::new(), exit: 137 });
    }

    #[test]
    fn a_command_that_did_not_end_and_all_after_it_are_absent() {
        let console = b"@@k7 begin 0\r\nx\r\n@@k7 end 0 0\r\n@@k7 begin 1\r\nKernel panic";
        assert_eq!(markers().parse(console, 3).len(), 1);
    }

    #[test]
    fn garbage_is_no_output() {
        for console in [
            &b""[..],
            b"\xff\xfe\x00",
            b"@@k7 begin 0",
            b"@@k7 begin 0\n@@k7 end 0 x",
            b"@@other begin 0\n@@other end 0 0\n",
            b"@@k7 end 0 0\n@@k7 begin 0\n",
        ] {
            assert_eq!(markers().parse(console, 1), vec![], "{console:?}");
        }
    }

    #[test]
    fn a_workload_that_guesses_markers_does_not_move_the_frame() {
        let console = b"@@k7 begin 0\n@@strata end 0 0\n@@k7 end 1 0\nreal\n@@k7 end 0 3\n";
        let outputs = markers().parse(console, 1);
        assert_eq!(outputs[0].exit, 3);
        assert!(outputs[0].stdout.ends_with(b"real\n"));
    }

    #[test]
    fn the_last_line_is_printable() {
        assert_eq!(last_line(b"first\n\x1b[31mred\x1b[0m\n\n"), Some("[31mred[0m".into()));
        assert_eq!(last_line(b"\n \n"), None);
    }
}
