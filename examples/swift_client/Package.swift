// swift-tools-version:5.7
import PackageDescription

let package = Package(
    name: "ask",
    targets: [.executableTarget(name: "ask", path: "Sources/ask")]
)
