package install

// A package sets these with the linker's -X, as install/port does. With a packager [Install] and [Uninstall]
// refuse: what the package system put there is its own to change.
var (
	packager = ""
	prefix   = "/usr/local"
)

// Where things are on OpenBSD (hier(7)).
const (
	manifestPath  = "/var/db/threatstopd.manifest"
	crashPath     = "/var/db/threatstopd.crash" // the daemon's
	rcScriptPath  = "/etc/rc.d/threatstopd"
	rcConfPath    = "/etc/rc.conf.local"
	newsyslogPath = "/etc/newsyslog.conf"
	cronTabPath   = "/var/cron/tabs/root"
	pfConfPath    = "/etc/pf.conf"
	passwdPath    = "/etc/passwd"
	masterPath    = "/etc/master.passwd"
	groupPath     = "/etc/group"
	pflogPath     = "/var/log/pflog"
	service       = "threatstopd" // the name of the rc.d script
)

func programPath() string { return prefix + "/sbin/threatstopd" }
func manualPath() string  { return prefix + "/man/man8/threatstopd.8" }
func confManPath() string { return prefix + "/man/man5/threatstop.conf.5" }
