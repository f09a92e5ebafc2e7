//! Chromium without a window, driven by its DevTools protocol over two pipes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::{arguments, program};

/// How long any one thing may take in the browser.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running browser with one page, and its profile.
pub struct Chromium {
    process: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    sent: u64,
    session: String,
    /// Errors of the page, and of what it loads.
    pub problems: Vec<String>,
    /// Every address that the page requested.
    pub requested: Vec<String>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts it with an empty page.
    pub fn start() -> Chromium {
        let profile = tempfile::tempdir().unwrap();
        // The browser wants the pipes at these numbers.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
            .arg(program())
            .args(arguments(&profile))
            .arg("--remote-debugging-pipe")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Debian's program is a script that starts the browser and would leave it running.
            .process_group(0);
        let mut process = command.spawn().unwrap();
        let (requests, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser = Chromium {
            process,
            requests,
            messages,
            sent: 0,
            session: String::new(),
            problems: Vec::new(),
            requested: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].take();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Goes to an address.
    pub fn open(&mut self, address: &str) {
        let answer = self.call("Page.navigate", json!({ "url": address }));
        assert!(answer.get("errorText").is_none(), "{address}: {answer}");
    }

    /// Calls a method of the protocol.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        let mut answer = self.ask(method, parameters);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// The answer to a call, which may be an error.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut request = json!({ "id": self.sent, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = self.session.clone().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer to {request}"));
            if message["id"] == self.sent {
                return message;
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.problems.push(parameters["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                self.problems.push(parameters["args"].to_string())
            }
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.problems.push(parameters["entry"].to_string())
            }
            "Network.requestWillBeSent" => {
                self.requested.push(parameters["request"]["url"].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }

    /// What an expression is in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true in the page; while it cannot be evaluated, it is not.
    pub fn wait_until(&mut self, expression: &str) {
        let begun = Instant::now();
        // For a second at a time: leaving a page drops the pending answer.
        let look = format!(
            "new Promise((resolve) => {{ const ends = Date.now() + 1000; const look = () => {{ \
             let is = false; try {{ is = Boolean({expression}); }} catch {{}} \
             if (is || Date.now() > ends) resolve(is); else setTimeout(look, 15); }}; look(); }})"
        );
        let parameters = json!({ "expression": look, "awaitPromise": true, "returnByValue": true });
        while self.ask("Runtime.evaluate", parameters.clone())["result"]["result"]["value"] != true {
            if begun.elapsed() > PATIENCE {
                let text = self.evaluate("document.body.innerText");
                panic!("never: {expression}\n{:?}\n{}", self.problems, text.as_str().unwrap_or_default());
            }
        }
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        // A key without a text is raw.
        for kind in [if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "keyUp"] {
            let parameters =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", parameters);
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL); // it may have ended by itself
        let _ = self.process.wait();
    }
}
