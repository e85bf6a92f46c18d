// Command flux-build prints as JSON what Flux's kustomize-controller would apply, by its own code.
//
//	flux-build build NAME=DIR...            of each Kustomization in the JSON list on standard input
//	flux-build pod-security LEVEL VERSION   what Pod Security forbids of the workloads on standard input
//
// NAME is the GitRepository that a Kustomization's spec.sourceRef names, and DIR a folder with its files.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/envsubst"
	generator "github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// object is what Flux applies, and the file that it is made from.
type object struct {
	File     string                     `json:"file"`
	Document *unstructured.Unstructured `json:"document"`
}

// result is what a Kustomization applies, which variables and files it has, and why it cannot be built.
type result struct {
	Objects   []object `json:"objects"`
	Variables []string `json:"variables"`
	Files     []string `json:"files"`
	Problem   *problem `json:"problem"`
}

type problem struct {
	File string `json:"file"`
	Said string `json:"said"`
}

// source is a folder with the files of one state of a repository; it notes which are read.
type source struct {
	filesys.FileSystem
	root string
	read map[string]bool
}

// ReadFile refuses a kustomization with a field that is none, which the controller would take away, and
// one that names something elsewhere, which kustomize would download.
func (s *source) ReadFile(path string) ([]byte, error) {
	content, err := s.FileSystem.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if name, err := filepath.Rel(s.root, path); err == nil {
		s.read[name] = true
	}
	var read kustypes.Kustomization
	if filepath.Base(path) == "kustomization.yaml" {
		if err := read.Unmarshal(content); err != nil {
			return nil, err
		}
		for _, name := range slices.Concat(read.Resources, read.Components, read.Crds) {
			if !generator.IsLocalRelativePath(name) {
				return nil, fmt.Errorf("%s is outside of git: copy it here, at one version", name)
			}
		}
	}
	return content, nil
}

var twoDollars = regexp.MustCompile(`\$\$[^{\s][^\s]*`)

// build fills in a result; the error is about the file that is returned with it.
func (r *result) build(k object, roots map[string]string) (string, error) {
	k.Document = k.Document.DeepCopy()
	title := "Kustomization/" + k.Document.GetName()
	text := func(fields ...string) string {
		found, _, _ := unstructured.NestedString(k.Document.Object, fields...)
		return found
	}
	name := text("spec", "sourceRef", "name")
	if roots[name] == "" {
		return k.File, fmt.Errorf("%s: spec.sourceRef.name: there is no source %q here", title, name)
	}
	root, err := filepath.EvalSymlinks(roots[name])
	if err != nil {
		return k.File, err
	}
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		return k.File, err
	}
	// What the controller writes into its copy stays in memory.
	from := &source{securefs.MakeFsInMemory(disk), root, map[string]bool{}}
	defer func() { r.Files = slices.Sorted(maps.Keys(from.read)) }()
	path := filepath.Clean(text("spec", "path"))
	folder, file := filepath.Join(root, path), filepath.Join(path, "kustomization.yaml")
	if !from.IsDir(folder) {
		return k.File, fmt.Errorf("%s: spec.path: there is no folder %s in git", title, path)
	}
	// So that every object says which file it is from; Flux itself does without.
	_ = unstructured.SetNestedStringSlice(k.Document.Object, []string{"originAnnotations"}, "spec", "buildMetadata")
	written, name, action, err := generator.NewGenerator(root, *k.Document).GenerateManifest(folder)
	if err != nil {
		return file, err
	}
	if action == generator.CreatedAction {
		return file, errors.New("is missing: without it Flux takes every YAML file there is")
	}
	if _, err := from.ReadFile(name); err != nil {
		return file, err
	}
	if err := from.WriteFile(name, written); err != nil {
		return file, err
	}
	built, err := generator.Build(from, folder)
	if err != nil {
		return file, errors.New(strings.ReplaceAll(err.Error(), root+"/", ""))
	}
	_, substitutes, _ := unstructured.NestedMap(k.Document.Object, "spec", "postBuild")
	labels, _, _ := unstructured.NestedStringMap(k.Document.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(k.Document.Object, "spec", "commonMetadata", "annotations")
	for _, res := range built.Resources() {
		one := object{file, &unstructured.Unstructured{}}
		// What a kustomization generates is from that kustomization.
		if origin, err := res.GetOrigin(); err == nil && origin != nil {
			one.File = filepath.Join(path, origin.Path+origin.ConfiguredIn)
		}
		if err := res.SetOrigin(nil); err != nil {
			return one.File, err
		}
		before := res.MustYaml()
		if substitutes {
			// The caller has put the facts into spec.postBuild.substitute, so no cluster is asked.
			done, err := generator.SubstituteVariables(context.Background(), nil, *k.Document, res,
				generator.SubstituteWithDryRun(true), generator.SubstituteWithStrict(true))
			if found := twoDollars.FindString(before); err == nil && done != nil && found != "" {
				err = fmt.Errorf("Flux makes one $ of the two in '%s': write one", found)
			}
			if err != nil {
				return one.File, fmt.Errorf("%s/%s: %w", res.GetKind(), res.GetName(), err)
			}
			_, _ = envsubst.Eval(before, func(name string) (string, bool) {
				r.Variables = append(r.Variables, name)
				return "", true
			})
		}
		content, err := res.MarshalJSON()
		if err == nil {
			err = one.Document.UnmarshalJSON(content)
		}
		if err != nil {
			return one.File, err
		}
		ssautil.SetCommonMetadata([]*unstructured.Unstructured{one.Document}, labels, annotations)
		r.Objects = append(r.Objects, one)
	}
	return "", nil
}

func build(roots map[string]string) error {
	var given []object
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	results := make([]result, len(given))
	for i, k := range given {
		if file, err := results[i].build(k, roots); err != nil {
			results[i] = result{Problem: &problem{file, err.Error()}}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

// podSecurity prints, as a JSON list, what a level of a version of Pod Security forbids of workloads.
func podSecurity(level, version string) error {
	wanted, err := api.ParseLevel(level)
	if err != nil {
		return err
	}
	since, err := api.ParseVersion(version)
	if err != nil {
		return err
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	found := []map[string]string{}
	for documents := kubeyaml.NewYAMLOrJSONDecoder(os.Stdin, 4096); ; {
		var workload unstructured.Unstructured
		if err := documents.Decode(&workload.Object); errors.Is(err, io.EOF) {
			return json.NewEncoder(os.Stdout).Encode(found)
		} else if err != nil {
			return err
		}
		way := []string{"spec", "template"}
		switch workload.GetKind() {
		case "Pod":
			way = nil
		case "CronJob":
			way = []string{"spec", "jobTemplate", "spec", "template"}
		}
		template, _, err := unstructured.NestedMap(workload.Object, way...)
		var pod corev1.PodTemplateSpec
		if err == nil {
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod)
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", workload.GetKind(), workload.GetName(), err)
		}
		judged := api.LevelVersion{Level: wanted, Version: since}
		for _, result := range evaluator.EvaluatePod(judged, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				found = append(found, map[string]string{
					"kind": workload.GetKind(), "name": workload.GetName(),
					"reason": result.ForbiddenReason, "detail": result.ForbiddenDetail,
				})
			}
		}
	}
}

func main() {
	err := errors.New("usage: flux-build build NAME=DIR... | pod-security LEVEL VERSION")
	if words := os.Args[1:]; len(words) == 3 && words[0] == "pod-security" {
		err = podSecurity(words[1], words[2])
	} else if len(words) > 1 && words[0] == "build" {
		roots := map[string]string{}
		for _, word := range words[1:] {
			name, dir, _ := strings.Cut(word, "=")
			roots[name] = dir
		}
		err = build(roots)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flux-build:", err)
		os.Exit(1)
	}
}
