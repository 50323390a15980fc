package privsep

import "slices"

// Role is one process of threatstopd, or one of its commands: what the manual's section PROCESSES
// describes, and what Confine does.
type Role struct {
	// Name is the process as ps(1) shows it ("main" for the daemon itself), or the option of the command.
	Name string
	// User is "root", "USER" (the service user that the configuration names, if the process was started by
	// root), or "the caller".
	User string
	// Promises are those of pledge(2); NamePromises are added when host names are looked up. Empty: it is
	// not pledged, for the reason in Unpledged.
	Promises, NamePromises, Unpledged string
	// Unveil has the paths that it sees; empty: it sees nothing.
	Unveil []Path
	// Holds are the descriptors that it has besides its standard ones and that of its connection to main.
	Holds []string
	// Can is what an attacker who has taken it over could still do.
	Can string
}

// Path is what a process sees of the file system.
type Path struct {
	// Key names the path among those of Confinement: a key of threatstop.conf, or one of the Path
	// constants. Literal is the path itself, where it is always the same.
	Key, Literal string
	Suffix       string // is added to the path
	Permissions  string // of unveil(2)
	Names        bool   // only when host names are looked up
}

// Names in Confinement.Paths of what is no key of threatstop.conf.
const (
	PathConfig    = "threatstop.conf"              // the configuration
	PathConfigDir = "directory of threatstop.conf" // where that is
	PathProgram   = "threatstopd"                  // this program: see Program
	// The sockets that the daemon answers at, which it removes at its end.
	PathSocket       = "threatstopd.sock"
	PathStatusSocket = "threatstopd-status.sock"
)

// tempSuffix is that of a table file while it is written (see package apply).
const tempSuffix = ".new"

const resolvConf = "/etc/resolv.conf"

// resolver is what Go's resolver opens.
var resolver = []Path{
	{Literal: resolvConf, Permissions: "r", Names: true},
	{Literal: "/etc/hosts", Permissions: "r", Names: true},
}

var tableFiles = []Path{
	{Key: "BLOCK_FILE", Permissions: "rwc"},
	{Key: "BLOCK_FILE", Suffix: tempSuffix, Permissions: "rwc"},
	{Key: "ALLOW_FILE", Permissions: "rwc"},
	{Key: "ALLOW_FILE", Suffix: tempSuffix, Permissions: "rwc"},
}

// Roles is the one table of the processes and of what confines them.
//
// From OpenBSD 7.9 on, every open(2) after pledge needs its promise and its unveil. What Go's runtime
// and standard library may open late:
//
//   - the time zone (/etc/localtime, /usr/share/zoneinfo): Confine loads it;
//   - /dev/null: [Exec] opens it; nothing uses os/exec;
//   - /etc/resolv.conf and /etc/hosts, for each look-up that is seconds after the last: unveiled with
//     NamePromises. Go does not read nsswitch.conf on OpenBSD;
//   - /etc/services, /etc/protocols: ports are numbers, and networks are tcp, udp and unix;
//   - /etc/ssl/cert.pem and CA_FILE: report loads the pool before Confine, and CA_FILE is unveiled;
//   - MIME types (/etc/mime.types and others): nothing serves files or asks for the type of a name;
//   - /etc/passwd, /etc/group: users and groups are looked up once, before Confine;
//   - /dev/log, again when syslogd(8) was restarted: unveiled for main, which alone logs;
//   - random numbers, processors, memory, interfaces: system calls, not files.
//
// What we open late ourselves has a path in the table. The tests under strace(1) of package cli fail on
// any other path.
var Roles = []Role{
	{
		Name:     "main",
		User:     "root",
		Promises: "stdio rpath wpath cpath pf unix route proc exec",
		Unveil: slices.Concat([]Path{
			{Key: PathConfig, Permissions: "r"},
			// It is checked whether others can write there.
			{Key: PathConfigDir, Permissions: "r"},
			// Which resolvers are never to be blocked is read anew for each update.
			{Literal: resolvConf, Permissions: "r"},
			{Literal: "/etc/unwind.conf", Permissions: "r"},
			{Literal: "/var/unbound/etc/unbound.conf", Permissions: "r"},
			{Literal: "/dev/log", Permissions: "rw"},
			{Key: PathSocket, Permissions: "c"},
			{Key: PathStatusSocket, Permissions: "c"},
		}, tableFiles, []Path{
			{Key: PathProgram, Permissions: "x"},
			// The kernel opens the dynamic linker with the eyes of the process that executes
			// (exec_elf.c: elf_load_file).
			{Literal: "/usr/libexec/ld.so", Permissions: "r"},
		}),
		Holds: []string{"/dev/pf", "the directories of the table files", "a socket pair for each other process"},
		Can: "do what root can, since a program that it executes is not confined. " +
			"It accepts no connections and reads nothing from the network.",
	},
	{
		Name:         "fetch",
		User:         "USER",
		Promises:     "stdio inet",
		NamePromises: "rpath",
		Unveil:       resolver,
		Can: "connect to any host, and change lists within MAX_ENTRIES, MIN_PREFIX_V4, MIN_PREFIX_V6, MAX_SHRINK and the exceptions, " +
			"which main applies.",
	},
	{
		Name:     "report",
		User:     "USER",
		Promises: "stdio inet unix rpath wpath cpath bpf",
		Unveil: slices.Concat([]Path{
			{Key: "SPOOL_DIR", Permissions: "rwc"},
			{Key: "CA_FILE", Permissions: "r"},
		}, resolver),
		Holds: []string{"a locked bpf(4) descriptor of PFLOG_IF", "the files of pflogd(8) at start", "the listening sockets"},
		Can: "connect to any host, send what pf logs and the proxy's password there, invent, hide and delete hits, report a false status, " +
			"and request updates from main, also with --force.",
	},
	{
		Name:      "states",
		User:      "USER",
		Unpledged: "no promise permits DIOCKILLSTATES",
		Holds:     []string{"/dev/pf"},
		Can: "change all of pf, signal processes of USER, and use the network. " +
			"It receives only addresses that main has checked.",
	},
	{
		Name: "--sync-now",
		User: "root",
		// The promise "proc" is for ending the process that fetches.
		Promises: "stdio rpath wpath cpath pf proc",
		Unveil:   tableFiles,
		Holds:    []string{"/dev/pf", "the directories of the table files", "a socket pair for its own fetch"},
		Can:      "set tables of pf, write the table files, and signal other processes.",
	},
	{Name: "--dump-table", User: "root", Promises: "stdio", Holds: []string{"the table, read before"}, Can: printFalse},
	{Name: "--read", User: "the caller", Promises: "stdio", Holds: []string{"the file"}, Can: printFalse},
	{
		Name:     "--status",
		User:     "the caller",
		Promises: "stdio",
		Holds:    []string{"a connection to the daemon"},
		Can:      "print false results, and send the daemon the requests that the caller may send.",
	},
	{Name: "-n", User: "the caller", Promises: "stdio", Can: printFalse},
	{
		Name:         "--test",
		User:         "USER",
		Promises:     "stdio inet",
		NamePromises: "rpath",
		Unveil:       resolver,
		Holds:        []string{"a locked bpf(4) descriptor of PFLOG_IF"},
		Can:          "send what pf logs to any host, and print false results.",
	},
	{
		Name:         "--check",
		User:         "USER",
		Promises:     "stdio inet",
		NamePromises: "rpath",
		Unveil:       resolver,
		Holds:        []string{"the files of pflogd(8)"},
		Can:          "send these to any host, and print false results.",
	},
	{Name: "--help, --version", User: "the caller", Promises: "stdio", Can: printFalse},
}

const printFalse = "print false results."
