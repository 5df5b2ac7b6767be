// Asks a qwen3-mlx server over its Unix socket and prints the answer as it comes.
//
//     ask [--socket PATH] PROMPT
//
// The socket is --socket, QWEN3_SOCKET, or ~/.qwen3-mlx.sock. The thought goes to stderr, the answer to stdout.

import Foundation

#if canImport(Glibc)
import Glibc
let streamSocket = Int32(SOCK_STREAM.rawValue)
#else
let streamSocket = SOCK_STREAM
#endif

struct Failure: Error {
    let message: String
}

/// A stream of bytes to and from a Unix socket.
final class Connection {
    private let descriptor: Int32
    private var buffer: [UInt8] = []

    init(path: String) throws {
        descriptor = socket(AF_UNIX, streamSocket, 0)
        guard descriptor >= 0 else { throw Failure(message: Connection.reason("socket")) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = Array(path.utf8)
        guard name.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw Failure(message: "\(path): the path of a socket must be shorter")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let fd = descriptor
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard status == 0 else { throw Failure(message: Connection.reason(path)) }
    }

    deinit {
        close(descriptor)
    }

    func put(_ data: Data) throws {
        var rest = [UInt8](data)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            guard count > 0 else { throw Failure(message: Connection.reason("write")) }
            rest = rest.dropFirst(count)
        }
    }

    /// The next line, without its end.
    func line() throws -> String {
        while true {
            if let end = buffer.firstIndex(of: 10) {
                var text = Array(buffer[..<end])
                buffer.removeFirst(end + 1)
                if text.last == 13 { text.removeLast() }
                return String(decoding: text, as: UTF8.self)
            }
            try fill()
        }
    }

    /// The next `count` bytes.
    func bytes(_ count: Int) throws -> [UInt8] {
        while buffer.count < count { try fill() }
        let found = Array(buffer[..<count])
        buffer.removeFirst(count)
        return found
    }

    private func fill() throws {
        var chunk = [UInt8](repeating: 0, count: 65536)
        let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else { throw Failure(message: "the server has closed the connection") }
        buffer += chunk[..<count]
    }

    private static func reason(_ what: String) -> String {
        "\(what): \(String(cString: strerror(errno)))"
    }
}

/// The head of an answer, and its body piece by piece.
struct Response {
    let connection: Connection
    let status: Int
    let headers: [String: String]

    init(_ connection: Connection) throws {
        self.connection = connection
        let words = try connection.line().split(separator: " ")
        guard words.count >= 2, let code = Int(words[1]) else { throw Failure(message: "this is no HTTP server") }
        status = code
        var found: [String: String] = [:]
        while true {
            let line = try connection.line()
            if line.isEmpty { break }
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
            found[line[..<colon].lowercased()] = value
        }
        headers = found
    }

    func forEachPiece(_ use: ([UInt8]) throws -> Void) throws {
        if headers["transfer-encoding"] == nil {
            try use(connection.bytes(Int(headers["content-length"] ?? "0") ?? 0))
            return
        }
        while true {
            guard let size = Int(try connection.line(), radix: 16) else { throw Failure(message: "a broken chunk") }
            if size == 0 { return }
            try use(connection.bytes(size))
            _ = try connection.line()
        }
    }
}

struct Refusal: Decodable {
    struct Reason: Decodable { let message: String }
    let error: Reason
}

struct Chunk: Decodable {
    struct Choice: Decodable {
        struct Delta: Decodable {
            let content: String?
            let reasoning_content: String?
        }
        let delta: Delta
    }
    let choices: [Choice]
}

func show(_ text: String?, on file: FileHandle) {
    if let text = text, !text.isEmpty { file.write(Data(text.utf8)) }
}

/// Prints what one line of a stream holds.
func handle(line: [UInt8]) throws {
    let prefix = Array("data: ".utf8)
    guard line.starts(with: prefix) else { return }
    let data = Data(line.dropFirst(prefix.count))
    if let refusal = try? JSONDecoder().decode(Refusal.self, from: data) {
        throw Failure(message: refusal.error.message)
    }
    guard let chunk = try? JSONDecoder().decode(Chunk.self, from: data) else { return }
    for choice in chunk.choices {
        show(choice.delta.reasoning_content, on: FileHandle.standardError)
        show(choice.delta.content, on: FileHandle.standardOutput)
    }
}

func ask(_ prompt: String, socket path: String) throws {
    let message = ["role": "user", "content": prompt]
    let body = try JSONSerialization.data(withJSONObject: ["messages": [message], "stream": true] as [String: Any])
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + "Content-Length: \(body.count)\r\nConnection: close\r\n\r\n"
    let connection = try Connection(path: path)
    try connection.put(Data(head.utf8) + body)
    let response = try Response(connection)
    var rest: [UInt8] = []
    try response.forEachPiece { piece in
        rest += piece
        while response.status == 200, let end = rest.firstIndex(of: 10) {
            try handle(line: Array(rest[..<end]))
            rest.removeFirst(end + 1)
        }
    }
    if response.status != 200 {
        let refusal = try? JSONDecoder().decode(Refusal.self, from: Data(rest))
        throw Failure(message: refusal?.error.message ?? "the server answered \(response.status)")
    }
    print()
}

var words = Array(CommandLine.arguments.dropFirst())
var path = ProcessInfo.processInfo.environment["QWEN3_SOCKET"] ?? NSHomeDirectory() + "/.qwen3-mlx.sock"
if words.count >= 2, words[0] == "--socket" {
    path = words[1]
    words.removeFirst(2)
}
guard !words.isEmpty else {
    show("usage: ask [--socket PATH] PROMPT\n", on: FileHandle.standardError)
    exit(2)
}
do {
    try ask(words.joined(separator: " "), socket: path)
} catch let failure as Failure {
    show("error: \(failure.message)\n", on: FileHandle.standardError)
    exit(1)
}
