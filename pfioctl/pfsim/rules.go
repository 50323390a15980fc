package pfsim

import (
	"syscall"

	"example.org/threatstopd/pfioctl"
)

type loadedRule struct{}

type ruleReads struct{}

func (ruleReads) closed(*Device)                               {}
func clearsRule([]byte) bool                                   { return false }
func (k *Kernel) getRules(*Device, []byte) error               { return syscall.ENODEV }
func (k *Kernel) getRule(*Device, []byte) error                { return syscall.ENODEV }
func (k *Kernel) xend(*Device, []byte) error                   { return syscall.ENODEV }
func (k *Kernel) getRulesets(*pfioctl.PfiocRuleset) error      { return syscall.ENODEV }
func (k *Kernel) getRuleset(*pfioctl.PfiocRuleset) error       { return syscall.ENODEV }
func (k *Kernel) beginRules(path string) (uint32, error)       { return 0, syscall.EINVAL }
func (k *Kernel) rollbackRules(path string, ticket uint32)     {}
func (k *Kernel) commitRules(path string, ticket uint32) error { return syscall.EBUSY }
