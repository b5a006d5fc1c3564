//! A web server that does what a test tells it, above all what a good one would not.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What to answer.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

pub enum Body {
    /// With its length, unless the headers give another.
    Bytes(Vec<u8>),
    /// Only the first bytes of it, then the connection closes.
    Cut(Vec<u8>, usize),
    /// These bytes again and again, in chunks, with a pause after each.
    Endless(Vec<u8>, Duration),
    /// Nothing, not even a head; the connection stays open.
    Silence,
    /// The connection closes at once.
    Hangup,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: Vec::new(), body: Body::Bytes(body.into()) }
    }

    /// Sets a header, in place of another of the name.
    pub fn with(mut self, name: &str, value: impl ToString) -> Answer {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: Body) -> Answer {
        self.body = body;
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

pub struct Server {
    address: std::net::SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log_too, stop_too) = (log.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop_too.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, log, stop) = (handler.clone(), log_too.clone(), stop_too.clone());
                std::thread::spawn(move || serve(stream, &*handler, &log, &stop));
            }
        });
        Server { address, log, stop, thread: Some(thread) }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests whose line begins so.
    pub fn count(&self, start: &str) -> usize {
        self.requests().iter().filter(|request| request.line().starts_with(start)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>, stop: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        if write_answer(&mut stream, &request, answer, stop).is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut first = Vec::new();
    // A TLS greeting has no line end; what follows from the client is silence.
    reader.by_ref().take(8 << 10).read_until(b'\n', &mut first).ok()?;
    let line = String::from_utf8(first).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body).ok()?;
    Some(request)
}

/// `None` if the connection is to close.
fn write_answer(stream: &mut TcpStream, request: &Request, answer: Answer, stop: &AtomicBool) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length_given = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match answer.body {
        Body::Hangup => None,
        Body::Silence => {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            None
        }
        Body::Bytes(bytes) => {
            if !length_given {
                head.push_str(&format!("Content-Length: {}\r\n", bytes.len()));
            }
            stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
            if request.method != "HEAD" {
                stream.write_all(&bytes).ok()?;
            }
            Some(())
        }
        Body::Cut(bytes, count) => {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len()));
            stream.write_all(head.as_bytes()).ok()?;
            stream.write_all(&bytes[..count]).ok()?;
            None
        }
        Body::Endless(bytes, pause) => {
            stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).ok()?;
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).ok()?;
                stream.write_all(&bytes).ok()?;
                stream.write_all(b"\r\n").ok()?;
                std::thread::sleep(pause);
            }
            None
        }
    }
}
