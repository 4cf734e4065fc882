//! `svdo-infer --serve-stdin`, with a real child process.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::{Folder, bytes, infer};

struct Server {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
    _folder: Folder,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut server = Self::start_with(&crate::example(), arguments);
        let (status, greeting) = server.reply();
        assert_eq!((status, numbers(&greeting)), (0, vec![1, 3, 1, 1, 2, 1, 1]));
        server
    }

    fn start_with(model: &[u8], arguments: &[&str]) -> Self {
        let folder = Folder::new();
        folder.write("served.svdo", model);
        let mut child = infer(&folder)
            .args(["served.svdo", "--serve-stdin"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let replies = child.stdout.take().unwrap();
        Self { child, requests, replies, _folder: folder }
    }

    fn send(&mut self, body: &[u8]) {
        self.requests.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
        self.requests.write_all(body).unwrap();
    }

    fn reply(&mut self) -> (u32, Vec<u8>) {
        let mut header = [0; 8];
        self.replies.read_exact(&mut header).unwrap();
        let [status, length] =
            [0, 4].map(|at| u32::from_le_bytes(*header[at..].first_chunk().unwrap()));
        let mut body = vec![0; length as usize];
        self.replies.read_exact(&mut body).unwrap();
        (status, body)
    }

    /// Closes the pipes; the exit code and what was said on standard error.
    fn end(self) -> (i32, String) {
        let Self { mut child, requests, mut replies, .. } = self;
        drop(requests);
        let mut rest = Vec::new();
        replies.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (child.wait().unwrap().code().unwrap(), errors)
    }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

fn expected(x: &[f32]) -> Vec<u8> {
    let rows = x.chunks(3).flat_map(|x| [x[1] - 2.0 * x[2], 0.5 * x[0] - 0.25]);
    bytes(&rows.collect::<Vec<_>>())
}

#[test]
fn many_requests_in_order_and_a_clean_end() {
    for arguments in [&[][..], &["--threads", "2"]] {
        let mut server = Server::start(arguments);
        for count in [1, 2, 0, 7, 200, 1] {
            let x: Vec<f32> = (0..3 * count).map(|i| (i % 17) as f32).collect();
            server.send(&bytes(&x));
            assert_eq!(server.reply(), (0, expected(&x)), "{count} samples");
        }
        // Without waiting for replies.
        let requests: Vec<[f32; 3]> = (0..100).map(|i| [i as f32, 1.0, 2.0]).collect();
        requests.iter().for_each(|x| server.send(&bytes(x)));
        for x in &requests {
            assert_eq!(server.reply(), (0, expected(x)));
        }
        assert_eq!(server.end(), (0, String::new()));
    }
}

#[test]
fn a_bad_request_is_refused_and_the_next_one_served() {
    let mut server = Server::start(&[]);
    server.send(&[0; 7]);
    let (status, message) = server.reply();
    let message = String::from_utf8(message).unwrap();
    assert_eq!(status, 1);
    assert_eq!(message, "7 bytes of f32, expected a multiple of 12 for samples of shape [3]");
    let long = vec![0; (1 << 26) + 4];
    server.send(&long);
    let (status, message) = server.reply();
    assert_eq!(status, 1);
    assert!(String::from_utf8(message).unwrap().contains("at most 67108864"));
    server.send(&bytes(&[1.0, 2.0, 3.0]));
    assert_eq!(server.reply(), (0, expected(&[1.0, 2.0, 3.0])));
    assert_eq!(server.end().0, 0);
}

#[test]
fn what_is_not_finite_is_refused_and_the_next_one_served() {
    for arguments in [&[][..], &["--threads", "2"]] {
        let mut server = Server::start(arguments);
        let mut x = vec![1.0f32; 3 * 9];
        for (at, odd, found) in [
            (13, f32::NAN, "element 1 of sample 4 is NaN, not a finite number"),
            (14, f32::MAX, "output 0 of sample 4 is -inf, not a finite number"),
        ] {
            x[at] = odd;
            server.send(&bytes(&x));
            assert_eq!(server.reply(), (1, found.as_bytes().to_vec()));
            x[at] = 1.0;
            server.send(&bytes(&x));
            assert_eq!(server.reply(), (0, expected(&x)));
        }
        assert_eq!(server.end().0, 0);
    }
}

/// A model that makes a map of 100 by 100 of one pixel: maxima of windows that its padding fills.
fn widening() -> Vec<u8> {
    let one = 1.0f32.to_le_bytes();
    let no_names = [0];
    // Shape and scale, then no mean, std and layers, and one node.
    let input = [&[1, 1, 1][..], &one, &[0, 0, 0, 1]].concat();
    // max_pool2d: kernel, stride, padding.
    let pool = [2, 100, 100, 1, 1, 99, 99, 99, 99];
    let header = [&no_names[..], &input, &pool].concat();
    let mut file = [&b"SVDO\x01"[..], &[header.len() as u8], &header].concat();
    file.extend(crc32fast::hash(&file).to_le_bytes());
    file
}

#[test]
fn a_reply_that_is_too_long_is_refused_and_a_long_one_comes_in_pieces() {
    let mut server = Server::start_with(&widening(), &[]);
    let (status, greeting) = server.reply();
    let shape = numbers(&greeting);
    assert_eq!((status, &shape[..4]), (0, &[1, 1, 1, 1][..]));
    let outputs = shape[4] as usize * shape[5] as usize * shape[6] as usize;
    assert_eq!(outputs, 10_000);
    // All that may be sent, and one sample more than may be answered.
    let most = ((1 << 30) - 1) / outputs;
    for samples in [1 << 24, most + 1] {
        server.send(&vec![0; 4 * samples]);
        let (status, message) = server.reply();
        let message = String::from_utf8(message).unwrap();
        assert_eq!(status, 1);
        assert!(
            message.ends_with("more than 4294967292 bytes of outputs: send fewer"),
            "{message}"
        );
    }
    // Of several pieces.
    let samples = (1 << 22) / outputs * 2 + 3;
    let x: Vec<f32> = (0..samples).map(|i| i as f32 + 1.0).collect();
    server.send(&bytes(&x));
    let (status, reply) = server.reply();
    assert_eq!((status, reply.len()), (0, 4 * samples * outputs));
    server.send(&bytes(&x[samples - 1..]));
    let (_, last) = server.reply();
    assert!(reply[reply.len() - last.len()..] == last[..]);
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn an_end_inside_a_request_is_an_error() {
    for part in [&[12, 0][..], &[12, 0, 0, 0, 1, 2, 3]] {
        let mut server = Server::start(&[]);
        server.requests.write_all(part).unwrap();
        let (code, errors) = server.end();
        assert_eq!(code, 2);
        assert_eq!(errors, "error: standard input ended in the middle of a request\n");
    }
}

#[test]
fn nobody_reading_is_a_clean_end() {
    let Server { mut child, mut requests, replies, .. } = Server::start(&[]);
    drop(replies);
    let request = [&12u32.to_le_bytes()[..], &[0; 12]].concat();
    // The child ends at the first reply that nobody reads; then writing to it fails too.
    while requests.write_all(&request).is_ok() {}
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_model_that_cannot_be_read_ends_before_the_greeting() {
    let folder = Folder::new();
    folder.write("bad.svdo", b"SVDO");
    let output = infer(&folder).args(["bad.svdo", "--serve-stdin"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}
