package cli

import (
	"bytes"
	"fmt"
	"log/syslog"
	"strings"

	"github.com/rs/zerolog"
)

// openSyslog connects to syslogd with the facility daemon.
func openSyslog() (zerolog.LevelWriter, error) {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "threatstopd")
	if err != nil {
		return nil, err
	}
	return &syslogWriter{w: w}, nil
}

// syslogWriter gives each event its syslog level, and writes it as the text
// and its fields (`policy enforced lists=2 server=192.0.2.1:53`): the time and
// the level are syslogd's to add.
type syslogWriter struct{ w *syslog.Writer }

func (s *syslogWriter) Write(p []byte) (int, error) { return s.WriteLevel(zerolog.InfoLevel, p) }

func (s *syslogWriter) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	var b bytes.Buffer
	text := zerolog.ConsoleWriter{Out: &b, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName, zerolog.LevelFieldName}}
	if _, err := text.Write(p); err != nil {
		return 0, fmt.Errorf("format event: %w", err)
	}
	line := strings.TrimSpace(b.String())
	var err error
	switch {
	case level >= zerolog.ErrorLevel:
		err = s.w.Err(line)
	case level == zerolog.WarnLevel:
		err = s.w.Warning(line)
	case level == zerolog.InfoLevel:
		err = s.w.Info(line)
	default:
		err = s.w.Debug(line)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
